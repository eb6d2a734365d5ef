"""MTD, magnetic tile defects: pictures and masks side by side, no split of its own.

    ROOT/MT_Free/Imgs/exp1_num_3504.jpg, exp1_num_3504.png    one tile under lamp 1, its mask
    ROOT/MT_Blowhole/Imgs/..., MT_Break, MT_Crack, MT_Fray, MT_Uneven
    ROOT/mtd_train_filenames.txt                              for the canonical split, a name a line

`canonical` trains on the MT_Free pictures that DifferNet's list names and tests on all others. It
leaks: a tile was photographed under about six lamps in a row, and its views fall on both sides.
`grouped` keeps the pictures of one session (numbers that follow each other closely) on one side.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DataError
from ..config import DataConfig
from ..samples import GOOD, Dataset, Sample, files_in, hold_out, some
from .whole import folders_of, require_complete

TITLE = "MTD"
FREE = "MT_Free"
DEFECTS = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")
NAMES = "mtd_train_filenames.txt"
SESSION_GAP = 300
"""A larger step between the numbers of two pictures, in time order, begins another session."""
TEST_SHARE = 0.2
"""Of the good pictures, in whole sessions, for the grouped split; always the same ones."""


def categories(root: Path) -> tuple[str, ...]:
    """The two ways to split it."""
    found = folders_of(root, (FREE, *DEFECTS), TITLE, "Imgs")
    if missing := [name for name in (FREE, *DEFECTS) if name not in found]:
        raise DataError(f"{root}: MTD is not complete here: {some(missing)} missing")
    return ("canonical", "grouped")


def read(root: Path, category: str, config: DataConfig) -> Dataset:
    """The whole data set in one of the two splits; DataError names what is missing."""
    good = _samples(root, FREE, GOOD)
    defects = [s for name in DEFECTS for s in _samples(root, name, name[3:].lower())]
    sessions = _sessions([*good, *defects])
    good, defects = (
        [Sample(s.path, s.label, s.mask, sessions[s.path]) for s in samples]
        for samples in (good, defects)
    )
    if category == "canonical":
        names = _names(root / NAMES, {s.path.name for s in good})
        train = [s for s in good if s.path.name in names]
        rest = [s for s in good if s.path.name not in names]
    else:
        train, rest = hold_out(good, TEST_SHARE, 0)
    train, calibrate = hold_out(train, config.calibrate_fraction, config.split_seed)
    # Good parts have an empty mask file, which says nothing more than their label.
    test = [Sample(s.path, s.label, None, s.group) for s in rest] + defects
    parts = [[Sample(s.path, s.label, None, s.group) for s in x] for x in (train, calibrate)]
    dataset = Dataset(root, f"mtd {category}", tuple(parts[0]), tuple(parts[1]), tuple(test))
    return require_complete(dataset, TITLE, root)


def _samples(root: Path, name: str, label: str) -> list[Sample]:
    folder = root / name / "Imgs"
    return [
        Sample(p, label, mask if (mask := p.with_suffix(".png")).is_file() else None, "")
        for p in files_in(folder, (".jpg",))
    ]


def _sessions(samples: list[Sample]) -> dict[Path, str]:
    """The session of each picture, named by its first number."""
    numbers = {}
    for sample in samples:
        match = re.fullmatch(r"exp\d+_num_(\d+)", sample.path.stem)
        if match is None:
            raise DataError(f"{sample.path}: MTD's pictures are called exp<lamp>_num_<number>.jpg")
        numbers[sample.path] = int(match[1])
    sessions: dict[Path, str] = {}
    first = last = -SESSION_GAP - 1
    for path, number in sorted(numbers.items(), key=lambda item: (item[1], item[0])):
        if number - last > SESSION_GAP:
            first = number
        sessions[path], last = f"session {first}", number
    return sessions


def _names(path: Path, known: set[str]) -> set[str]:
    if not path.is_file():
        raise DataError(
            f"{path}: the canonical split needs DifferNet's list of the training pictures under "
            "this name, one a line; it is in that method's published code"
        )
    names = set(path.read_text(encoding="utf-8").split())
    if unknown := sorted(names - known):
        raise DataError(
            f"{path}: {len(unknown)} of its {len(names)} pictures are not in {FREE} "
            f"({some(unknown)}); the download or the list is not complete"
        )
    return names
