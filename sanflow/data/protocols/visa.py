"""VisA: twelve objects, split by the data set's own table for one class.

ROOT/split_csv/1cls.csv                        object,split,label,image,mask
ROOT/candle/Data/Images/Normal/0000.JPG
ROOT/candle/Data/Images/Anomaly/000.JPG
ROOT/candle/Data/Masks/Anomaly/000.png         numbers of defect kinds, 0 where there is none
"""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ..config import DataConfig
from ..samples import GOOD, Dataset, Sample, hold_out, some
from ..table import read_rows
from .whole import folders_of, require_complete

TITLE = "VisA"
OBJECTS = (
    "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
).split()
TABLE = "split_csv/1cls.csv"


def categories(root: Path) -> tuple[str, ...]:
    """The objects that are there."""
    return folders_of(root, OBJECTS, TITLE, "Data/Images")


def read(root: Path, category: str, config: DataConfig) -> Dataset:
    """One object; DataError if the table is missing, or names a file that is not there."""
    table = root / TABLE
    if not table.is_file():
        raise DataError(
            f"{root}: VisA is split by its own table, and {TABLE} is not there; unpack the whole "
            "archive again"
        )
    columns = ("object", "split", "label", "image", "mask")
    rows = [row for _, row in read_rows(table, columns) if row["object"] == category]
    if not rows:
        raise DataError(f"{table}: no line for {category}; unpack the archive again")
    named = [row[column] for row in rows for column in ("image", "mask") if row[column]]
    if missing := [name for name in named if not (root / name).is_file()]:
        raise DataError(
            f"{root / category}: VisA is not complete here: {len(missing)} of {len(named)} files "
            f"that {TABLE} names are missing ({some(missing)}); download and unpack it again"
        )
    train = _samples(root, rows, "train")
    test = _samples(root, rows, "test")
    if any(s.label != GOOD for s in train):
        raise DataError(f"{table}: {category} has defective training images; is it the 1cls table?")
    train, calibrate = hold_out(train, config.calibrate_fraction, config.split_seed)
    dataset = Dataset(root, f"visa {category}", tuple(train), tuple(calibrate), tuple(test))
    return require_complete(dataset, f"{TITLE}'s {category}", root / category)


def _samples(root: Path, rows: list[dict[str, str]], split: str) -> list[Sample]:
    chosen = sorted((row for row in rows if row["split"] == split), key=lambda row: row["image"])
    return [
        Sample(
            root / row["image"],
            GOOD if row["label"] == "normal" else row["label"],
            root / row["mask"] if row["mask"] else None,
            row["image"],
        )
        for row in chosen
    ]
