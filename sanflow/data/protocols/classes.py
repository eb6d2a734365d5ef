"""Any set of class folders as a one-class problem: one class is normal, all others are anomalies.

ROOT/train/<class>/NAME.png
ROOT/test/<class>/NAME.png
"""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ...imaging import IMAGE_SUFFIXES
from ..config import DataConfig
from ..samples import FOREIGN_SUFFIXES, GOOD, Dataset, files_in, hold_out, some
from ..tree import samples_in


def categories(root: Path) -> tuple[str, ...]:
    """The classes, each of which can be the normal one; DataError if one of them is empty."""
    train, test = (_classes(root, split) for split in ("train", "test"))
    if missing := sorted(train ^ test):
        raise DataError(
            f"{root}: train and test must hold the same classes, and {some(missing)} is in one "
            "only; the set is not complete"
        )
    if len(train) < 2:
        raise DataError(f"{root}: {len(train)} class; a one-class problem needs at least two")
    return tuple(sorted(train))


def read(root: Path, category: str, config: DataConfig) -> Dataset:
    """Train on one class, test on all: its images are good, those of class X defects called X."""
    train = samples_in(root, root / "train" / category, GOOD)
    train, calibrate = hold_out(train, config.calibrate_fraction, config.split_seed)
    folders = sorted(p for p in (root / "test").iterdir() if p.is_dir())
    if any(p.name == GOOD != category for p in folders):
        raise DataError(
            f"{root}: one of the classes is called {GOOD}, which can only be the normal one; "
            "rename it"
        )
    test = [
        sample
        for folder in folders
        for sample in samples_in(root, folder, GOOD if folder.name == category else folder.name)
    ]
    foreign = files_in(root / "train" / category, FOREIGN_SUFFIXES)
    foreign += files_in(root / "test", FOREIGN_SUFFIXES)
    roles = (tuple(train), tuple(calibrate), tuple(test))
    return Dataset(root, f"classes {category}", *roles, tuple(foreign))


def _classes(root: Path, split: str) -> set[str]:
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"{root}: no folder {split}; class folders are train/<class>, test/<class>")
    found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if empty := sorted(p.name for p in found if not _holds_images(p)):
        raise DataError(f"{folder}: no images of the class {some(empty)}; the set is not complete")
    return {p.name for p in found}


def _holds_images(folder: Path) -> bool:
    return any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.rglob("*"))
