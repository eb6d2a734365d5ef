"""From a folder or CSV file to three disjoint roles: train, calibrate, test.

Calibration needs good parts that training never saw, so a share of the good training parts is held
out: whole groups (all views of one part, where groups are known), drawn by a hash of the group's
name, so that neither the order of files nor the addition of others moves a group across.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..imaging import IMAGE_SUFFIXES
from .config import DataConfig

GOOD = "good"
ROLES = ("train", "calibrate", "test")
SPLITS = (*ROLES, "excluded")
_FOREIGN_SUFFIXES = (".gif", ".heic", ".avif", ".jp2", ".exr", ".raw", ".dng", ".svg", ".pdf")


@dataclass(frozen=True)
class Sample:
    """One image: its label ("good" or the defect's name), its mask, and the part it shows."""

    path: Path
    label: str
    mask: Path | None
    group: str


@dataclass(frozen=True)
class Dataset:
    """The three roles; train and calibrate hold good parts only, in the order of their paths."""

    root: Path
    layout: str
    train: tuple[Sample, ...]
    calibrate: tuple[Sample, ...]
    test: tuple[Sample, ...]
    unsupported: tuple[Path, ...] = ()
    """Pictures among the images whose format nothing here reads."""

    def roles(self) -> dict[str, tuple[Sample, ...]]:
        """The samples of each role, by name."""
        return {"train": self.train, "calibrate": self.calibrate, "test": self.test}

    def relative(self, path: Path) -> str:
        """A path as stored in runs and reports: from the root, with forward slashes."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.as_posix()

    def shared_groups(self) -> tuple[str, ...]:
        """Groups with good parts on both sides, train or calibrate and test: a leak to know of."""
        seen = {s.group for s in self.train + self.calibrate}
        return tuple(sorted(seen & {s.group for s in self.test if s.label == GOOD}))


def open_dataset(root: Path, config: DataConfig) -> Dataset:
    """Find the images under `root` (a folder, or a CSV file) and give each its role.

    Reads no pixels: check_dataset does. Raises DataError if something is missing or overlaps.
    """
    root = Path(root)
    layout = _guess_layout(root) if config.layout == "auto" else config.layout
    if layout == "csv":
        dataset = _open_csv(root / "manifest.csv" if root.is_dir() else root, config)
    elif not root.is_dir():
        raise DataError(f"{root}: expected a folder for the {layout} layout")
    else:
        dataset = _open_mvtec(root, config) if layout == "mvtec" else _open_folder(root, config)
    _refuse_overlap(dataset)
    return dataset


def _guess_layout(root: Path) -> str:
    if root.is_file() and root.suffix.lower() == ".csv":
        return "csv"
    if not root.is_dir():
        raise DataError(f"{root}: no such folder or CSV file")
    if (root / "train" / GOOD).is_dir():
        return "mvtec"
    inner = sorted(p.name for p in root.iterdir() if (p / "train" / GOOD).is_dir())
    if inner:
        raise DataError(
            f"{root}: holds several data sets ({', '.join(inner[:5])}); give one, for example "
            f"{root / inner[0]}"
        )
    return "csv" if (root / "manifest.csv").is_file() else "folder"


def _open_mvtec(root: Path, config: DataConfig) -> Dataset:
    groups = _manifest_groups(root)
    folders = [root / "train" / GOOD, root / "calibrate" / GOOD]
    train, calibrate = (_samples(root, f, GOOD, groups) for f in folders)
    if not train:
        raise DataError(
            f"{root}: no images in {folders[0].relative_to(root)}; the mvtec layout is "
            "train/good, test/<label>, ground_truth/<label>/NAME_mask.png"
        )
    test: list[Sample] = []
    if (root / "test").is_dir():
        for folder in sorted(p for p in (root / "test").iterdir() if p.is_dir()):
            masks = _masks(root / "ground_truth" / folder.name)
            test += _samples(root, folder, folder.name, groups, masks)
            folders.append(folder)
    if not calibrate:
        train, calibrate = _hold_out(train, config)
    foreign = tuple(p for f in folders if f.is_dir() for p in _files(f, _FOREIGN_SUFFIXES))
    return Dataset(root, "mvtec", tuple(train), tuple(calibrate), tuple(test), foreign)


def _open_folder(root: Path, config: DataConfig) -> Dataset:
    samples = _samples(root, root, GOOD, {})
    if not samples:
        raise DataError(f"{root}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder")
    train, calibrate = _hold_out(samples, config)
    foreign = tuple(_files(root, _FOREIGN_SUFFIXES))
    return Dataset(root, "folder", tuple(train), tuple(calibrate), (), foreign)


def _open_csv(path: Path, config: DataConfig) -> Dataset:
    root = path.parent
    roles: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    declared: dict[Path, int] = {}
    for line, row in _rows(path, required=("path", "split")):
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
        train, calibrate = _hold_out(train, config)
    dataset = Dataset(root, "csv", tuple(train), tuple(calibrate), tuple(test))
    if shared := dataset.shared_groups():
        raise DataError(
            f"{path}: good parts of the groups {_some(shared)} are both in test and in train or "
            "calibrate; move each group to one side, or empty the group column"
        )
    return dataset


def _rows(path: Path, required: tuple[str, ...]) -> Iterable[tuple[int, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a UTF-8 CSV file ({error})") from None
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(text.splitlines(), delimiter=";" if ";" in head else ",")
    missing = [c for c in required if c not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; its first line must name the columns "
            "path, split, and optionally label, mask, group"
        )
    for row in reader:
        yield reader.line_num, {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}


def _manifest_groups(root: Path) -> Mapping[str, str]:
    """Group of each image by relative path, from a manifest.csv beside an mvtec layout."""
    path = root / "manifest.csv"
    if not path.is_file():
        return {}
    rows = [row for _, row in _rows(path, required=("path",))]
    return {Path(r["path"]).as_posix(): r["group"] for r in rows if r["path"] and r.get("group")}


def _samples(
    root: Path,
    folder: Path,
    label: str,
    groups: Mapping[str, str],
    masks: Mapping[str, Path] | None = None,
) -> list[Sample]:
    samples = []
    for path in _files(folder, IMAGE_SUFFIXES) if folder.is_dir() else ():
        name = path.relative_to(root).as_posix()
        mask = (masks or {}).get(path.stem)
        samples.append(Sample(path, label, mask, groups.get(name, name)))
    return samples


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below `folder` with one of the suffixes, sorted; hidden files and folders are not."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    return sorted(
        p for p in found if not any(x.startswith(".") for x in p.relative_to(folder).parts)
    )


def _masks(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {p.stem.removesuffix("_mask"): p for p in _files(folder, IMAGE_SUFFIXES)}


def _hold_out(samples: list[Sample], config: DataConfig) -> tuple[list[Sample], list[Sample]]:
    """Draw the calibrate role: groups in the order of their hashes, while each brings it nearer."""
    sizes: dict[str, int] = defaultdict(int)
    for sample in samples:
        sizes[sample.group] += 1
    if len(sizes) < 2:
        raise DataError(
            f"only {len(sizes)} group of good parts ({_some(sizes)}, {len(samples)} images): "
            "training and calibration need different ones; add parts, or correct the groups"
        )
    target = config.calibrate_fraction * len(samples)
    held: set[str] = set()
    count = 0
    for group in sorted(sizes, key=lambda g: _draw(config.split_seed, g)):
        if abs(count + sizes[group] - target) < abs(count - target):
            held.add(group)
            count += sizes[group]
    if not held:  # every group is far larger than the share: the smallest comes nearest
        held = {min(sizes, key=lambda g: (sizes[g], _draw(config.split_seed, g)))}
    if len(held) == len(sizes):
        held.remove(max(held, key=lambda g: (sizes[g], _draw(config.split_seed, g))))
    train = [s for s in samples if s.group not in held]
    return train, [s for s in samples if s.group in held]


def _draw(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _refuse_overlap(dataset: Dataset) -> None:
    owner: dict[Path, tuple[str, Path]] = {}
    for role, samples in dataset.roles().items():
        for sample in samples:
            real = sample.path.resolve()
            other, path = owner.setdefault(real, (role, sample.path))
            if other != role:
                raise DataError(
                    f"{dataset.root}: {dataset.relative(sample.path)} ({role}) and "
                    f"{dataset.relative(path)} ({other}) are one file; the roles must be disjoint"
                )
    shared = {s.group for s in dataset.train} & {s.group for s in dataset.calibrate}
    if shared:
        raise DataError(
            f"{dataset.root}: the groups {_some(sorted(shared))} are both in train and in "
            "calibrate; all images of a group must have one role"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
