"""MVTec AD: fifteen categories, one folder each.

ROOT/bottle/train/good/000.png
ROOT/bottle/test/broken_large/000.png
ROOT/bottle/ground_truth/broken_large/000_mask.png
"""

from __future__ import annotations

from pathlib import Path

from ..config import DataConfig
from ..samples import Dataset
from ..tree import read_tree
from .whole import folders_of, require_complete

TITLE = "MVTec AD"
CATEGORIES = (
    "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush "
    "transistor wood zipper"
).split()


def categories(root: Path) -> tuple[str, ...]:
    """The categories that are there."""
    return folders_of(root, CATEGORIES, TITLE, "train/good")


def read(root: Path, category: str, config: DataConfig) -> Dataset:
    """One category; DataError if a defective image lacks its mask, or a role its images."""
    folder = root / category
    dataset = read_tree(root, folder, config, layout=f"mvtec-ad {category}")
    return require_complete(dataset, f"{TITLE}'s {category}", folder)
