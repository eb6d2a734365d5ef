"""BTAD (beanTech): three products; good parts are called ok, defective ones ko.

ROOT/01/train/ok/0000.bmp
ROOT/01/test/ko/0000.bmp
ROOT/01/ground_truth/ko/0000.png
"""

from __future__ import annotations

from pathlib import Path

from ..config import DataConfig
from ..samples import Dataset
from ..tree import read_tree
from .whole import folders_of, require_complete

TITLE = "BTAD"
PRODUCTS = ("01", "02", "03")


def categories(root: Path) -> tuple[str, ...]:
    """The products that are there."""
    return folders_of(root, PRODUCTS, TITLE, "train/ok")


def read(root: Path, category: str, config: DataConfig) -> Dataset:
    """One product; DataError if a defective image lacks its mask, or a kind of image is missing."""
    folder = root / category
    dataset = read_tree(root, folder, config, layout=f"btad {category}", good="ok")
    return require_complete(dataset, f"{TITLE}'s {category}", folder)
