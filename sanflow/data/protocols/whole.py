"""Whole or not at all: what every reader of a public data set checks, and how folders are made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...errors import DataError, InputError
from ..samples import GOOD, Dataset, some

Progress = Callable[[int, int], None]
"""Called with the number of files done and their total."""


def folders_of(root: Path, names: Sequence[str], title: str, marker: str = "") -> tuple[str, ...]:
    """Which of the data set's folders `root` holds; DataError if it holds none of them.

    `marker` is a path below each that tells it from an empty folder.
    """
    found = tuple(name for name in names if (root / name / marker).exists())
    if not found:
        raise DataError(
            f"{root}: this is not {title}: none of {some(names)} is in it; give the folder that "
            "holds them"
        )
    return found


def require_complete(dataset: Dataset, title: str, folder: Path) -> Dataset:
    """The data set itself; DataError when its test lacks good parts, defects or their masks."""
    good = [s for s in dataset.test if s.label == GOOD]
    bare = [dataset.relative(s.path) for s in dataset.test if s.label != GOOD and s.mask is None]
    missing = []
    if not good:
        missing.append("there are no good test images")
    if len(good) == len(dataset.test):
        missing.append("there are no defective test images")
    if bare:
        missing.append(f"{len(bare)} defective images have no mask ({some(bare)})")
    if missing:
        raise DataError(
            f"{folder}: {title} is not complete here: {'; '.join(missing)}; download and unpack "
            "it again"
        )
    return dataset


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends and vanishes when it fails."""
    if out.exists():
        raise InputError(f"{out}: is already there; give a new folder with --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    if partial.exists():  # of a process that was killed
        shutil.rmtree(partial)
    try:
        partial.mkdir()
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
