"""The door of a data set: from a folder or CSV file to samples in three disjoint roles.

Three layouts are for a user's own parts (an MVTec AD tree, a plain folder, a CSV file); the public
data sets, each with its own tree and rules, are `protocols/`.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..imaging import IMAGE_SUFFIXES
from .config import DataConfig
from .protocols import PROTOCOLS
from .samples import (
    FOREIGN_SUFFIXES,
    GOOD,
    ROLES,
    Dataset,
    Sample,
    files_in,
    hold_out,
    refuse_overlap,
    require_defect,
    some,
)
from .table import read_rows
from .tree import read_tree, samples_in

__all__ = ["GOOD", "ROLES", "Dataset", "Sample", "open_dataset"]

SPLITS = (*ROLES, "excluded")
_GOOD = frozenset({"good", "ok", "normal", "pass"})
_NOT_GOOD = frozenset(
    "abnormal anomalies anomalous anomaly bad defect defective defects fail faulty ground_truth "
    "groundtruth gt mask masks ng nok reject rejects scrap test train val validation".split()
)
"""What people call folders that tell good parts from others."""


def open_dataset(root: Path, config: DataConfig) -> Dataset:
    """Find the images under `root` (a folder, or a CSV file) and give each its role.

    Reads no pixels: check_dataset does. Raises DataError if something is missing or overlaps.
    """
    root = Path(root)
    layout = _guess_layout(root, config.category) if config.layout == "auto" else config.layout
    if layout != "csv" and not root.is_dir():
        raise DataError(f"{root}: expected a folder for the {layout} layout")
    if layout in PROTOCOLS:
        dataset = PROTOCOLS[layout].read(root, _category(root, layout, config.category), config)
    elif layout == "mvtec":
        dataset = read_tree(root, root / (config.category or ""), config)
    elif config.category is not None:
        raise DataError(f"{root}: the {layout} layout has no categories; leave --category out")
    elif layout == "csv":
        dataset = _open_csv(root / "manifest.csv" if root.is_dir() else root, config)
    else:
        dataset = _open_folder(root, config)
    refuse_overlap(dataset)
    return dataset


def _guess_layout(root: Path, category: str | None) -> str:
    if root.is_file() and root.suffix.lower() == ".csv":
        return "csv"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder or CSV file")
    if (root / (category or "") / "train" / GOOD).is_dir():
        return "mvtec"
    inner = sorted(p.name for p in root.iterdir() if (p / "train" / GOOD).is_dir())
    if category is not None:
        known = f"; the data sets here: {some(inner)}" if inner else "; is a --layout missing?"
        raise DataError(f"{root / category}: no data set in MVTec AD layout{known}")
    if inner:
        raise DataError(
            f"{root}: holds several data sets ({', '.join(inner[:5])}); give one, for example "
            f"--category {inner[0]}"
        )
    if (root / "manifest.csv").is_file():
        return "csv"
    _require_good_alone(root)
    return "folder"


def _require_good_alone(root: Path) -> None:
    """Refuse a folder that seems to hold more than good parts: all its images would be good."""
    paths = [path.relative_to(root) for path in files_in(root, IMAGE_SUFFIXES)]
    inner = {path.parts[0] for path in paths if len(path.parts) > 1}
    named = {part for path in paths for part in path.parts[:-1] if part.lower() in _NOT_GOOD}
    beside = len(inner) > 1 or any(len(path.parts) == 1 for path in paths)
    named |= {name for name in inner if beside and name.lower() in _GOOD}
    masks = next((str(path) for path in paths if path.stem.lower().endswith("_mask")), None)
    if named or masks:
        found = some(sorted(named)) if named else masks
        raise DataError(
            f"{root}: holds {found} and so more than good parts, it seems; give the folder of the "
            f"good ones, or name folders as the mvtec layout does (train/{GOOD}, test/<label>, "
            "ground_truth/<label>/NAME_mask.png), or say --layout folder to take every image below "
            "it as good"
        )


def _category(root: Path, layout: str, asked: str | None) -> str:
    known = PROTOCOLS[layout].categories(root)
    if asked in known:
        return asked
    given = "no --category was given" if asked is None else f"no category {asked!r}"
    raise DataError(f"{root}: {given}; {PROTOCOLS[layout].title} here has {', '.join(known)}")


def _open_folder(root: Path, config: DataConfig) -> Dataset:
    samples = samples_in(root, root, GOOD)
    if not samples:
        raise DataError(f"{root}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder")
    train, calibrate = hold_out(samples, config.calibrate_fraction, config.split_seed)
    foreign = tuple(files_in(root, FOREIGN_SUFFIXES))
    return Dataset(root, "folder", tuple(train), tuple(calibrate), (), foreign)


def _open_csv(path: Path, config: DataConfig) -> Dataset:
    root = path.parent
    roles: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    declared: dict[Path, int] = {}
    for line, row in read_rows(path, required=("path", "split")):
        where = f"{path}, line {line}"
        split, name = row["split"], row["path"]
        if split not in SPLITS:
            raise DataError(f"{where}: split {split!r} is not one of {', '.join(SPLITS)}")
        if split == "excluded":
            continue
        image = root / name
        if not name or not image.is_file():
            raise DataError(f"{where}: image {name!r} is not a file beside the CSV")
        if image in declared:
            raise DataError(f"{where}: {name} is already listed in line {declared[image]}")
        declared[image] = line
        label = row.get("label") or ("" if split == "test" else GOOD)
        if label != GOOD:
            require_defect(label, GOOD, f"{where}: label")
        if split != "test" and label != GOOD:
            raise DataError(f"{where}: {name} is {label!r}; only good parts train or calibrate")
        if not label:
            raise DataError(f"{where}: a test image needs a label: good, or the defect's name")
        mask = root / row["mask"] if row.get("mask") else None
        if mask is not None and not mask.is_file():
            raise DataError(f"{where}: mask {row['mask']!r} is not a file beside the CSV")
        roles[split].append(Sample(image, label, mask, row.get("group") or name))
    if not roles["train"]:
        raise DataError(f"{path}: no line with split train")
    train, calibrate, test = (sorted(roles[r], key=lambda s: s.path) for r in ROLES)
    if not calibrate:
        train, calibrate = hold_out(train, config.calibrate_fraction, config.split_seed)
    dataset = Dataset(root, "csv", tuple(train), tuple(calibrate), tuple(test))
    if shared := dataset.shared_groups():
        raise DataError(
            f"{path}: good parts of the groups {some(shared)} are both in test and in train or "
            "calibrate; move each group to one side, or empty the group column"
        )
    return dataset
