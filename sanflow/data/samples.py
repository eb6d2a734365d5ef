"""What a data set is: samples in three disjoint roles, and how good parts are held out.

Calibration needs good parts that training never saw, so a share of the good training parts is held
out: whole groups (all views of one part, where groups are known), drawn by a hash of the group's
name, so that neither the order of files nor the addition of others moves a group across.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

GOOD = "good"
_GOOD_NAMES = frozenset({"good", "ok"})
ROLES = ("train", "calibrate", "test")
FOREIGN_SUFFIXES = (".gif", ".heic", ".avif", ".jp2", ".exr", ".raw", ".dng", ".svg", ".pdf")
"""Pictures that nothing here reads."""


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


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below `folder` with one of the suffixes, sorted; hidden files and folders are not.

    Raises DataError for a name that is not UTF-8, which no run or report could hold, and for a link
    to a folder, which is not followed: it may lead anywhere, or in a circle.
    """
    found = [
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if link := next((path for path in found if path.is_symlink() and path.is_dir()), None):
        raise DataError(
            f"{link}: a link to a folder, whose images would be left out; move them here, name "
            "them in a CSV manifest, or remove the link"
        )
    files = sorted(p for p in found if p.suffix.lower() in suffixes and p.is_file())
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"the name of {os.fsencode(path)!r} is not UTF-8; rename the file or folder"
            ) from None
    return files


def hold_out(
    samples: list[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """What stays and what is held out: groups by their hashes, while each brings it nearer."""
    sizes: dict[str, int] = defaultdict(int)
    for sample in samples:
        sizes[sample.group] += 1
    if len(sizes) < 2:
        raise DataError(
            f"only {len(sizes)} group of good parts ({some(sizes)}, {len(samples)} images): "
            "training and calibration need different ones; add parts, or correct the groups"
        )
    target = fraction * len(samples)
    held: set[str] = set()
    count = 0
    for group in sorted(sizes, key=lambda g: _draw(seed, g)):
        if abs(count + sizes[group] - target) < abs(count - target):
            held.add(group)
            count += sizes[group]
    if not held:  # every group is far larger than the share: the smallest comes nearest
        held = {min(sizes, key=lambda g: (sizes[g], _draw(seed, g)))}
    if len(held) == len(sizes):
        held.remove(max(held, key=lambda g: (sizes[g], _draw(seed, g))))
    train = [s for s in samples if s.group not in held]
    return train, [s for s in samples if s.group in held]


def _draw(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def refuse_overlap(dataset: Dataset) -> None:
    """Raise DataError where one file, or one group of good parts, has two roles."""
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
            f"{dataset.root}: the groups {some(sorted(shared))} are both in train and in "
            "calibrate; all images of a group must have one role"
        )


def require_defect(name: str, good: str, where: str) -> None:
    """DataError for a name that plainly means good parts, and would count as a kind of defect."""
    if name.lower() in _GOOD_NAMES:
        raise DataError(
            f"{where}: {name!r} would count as a kind of defect; if it means good parts, rename it "
            f"to {good!r}, if not, to something else"
        )


def some(names: Iterable[str]) -> str:
    """The first five names, and how many more."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
