"""CIFAR-10 and CIFAR-100, the binary versions, to class folders of PNG files.

    SOURCE/data_batch_1.bin ... data_batch_5.bin, test_batch.bin, batches.meta.txt      CIFAR-10
    SOURCE/train.bin, test.bin, coarse_label_names.txt, fine_label_names.txt            CIFAR-100

A record is one byte per label and 32 x 32 bytes of red, green and blue. Of CIFAR-100 the 20
superclasses are taken. The Python versions hold pickles, which run code when they are opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...imaging import encode_png
from ..samples import some
from .whole import Progress, new_folder

SIDE = 32


def unpack_cifar10(source: Path, out: Path, progress: Progress | None = None) -> None:
    """Write OUT/train/<class> and OUT/test/<class> of CIFAR-10; DataError names what is missing."""
    train = [source / f"data_batch_{i}.bin" for i in range(1, 6)]
    test = [source / "test_batch.bin"]
    _unpack("CIFAR-10", source / "batches.meta.txt", 1, train, test, out, progress)


def unpack_cifar100(source: Path, out: Path, progress: Progress | None = None) -> None:
    """Write OUT/train/<class> and OUT/test/<class> of CIFAR-100's superclasses."""
    train, test = [source / "train.bin"], [source / "test.bin"]
    _unpack("CIFAR-100", source / "coarse_label_names.txt", 2, train, test, out, progress)


def _unpack(
    title: str,
    names: Path,
    labels: int,
    train: Sequence[Path],
    test: Sequence[Path],
    out: Path,
    progress: Progress | None,
) -> None:
    """`labels` bytes precede each image; the first is the one that counts."""
    if missing := [p.name for p in (names, *train, *test) if not p.is_file()]:
        raise DataError(
            f"{names.parent}: this is not the binary version of {title}: {some(missing)} missing; "
            "give the folder of the unpacked archive (the Python version cannot be read: its "
            "pickles run code when they are opened)"
        )
    classes = names.read_text(encoding="utf-8").split()
    batches = {
        "train": [_records(path, labels) for path in train],
        "test": [_records(path, labels) for path in test],
    }
    total = sum(len(batch) for found in batches.values() for batch in found)
    done = 0
    with new_folder(out) as folder:
        for split, found in batches.items():
            for name in classes:
                (folder / split / name).mkdir(parents=True)
            for index, record in enumerate(np.concatenate(found)):
                if record[0] >= len(classes):
                    raise DataError(
                        f"{names.parent}: {title}'s record {index} of {split} has the label "
                        f"{record[0]}, and there are {len(classes)} names; download it again"
                    )
                image = record[labels:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
                path = folder / split / classes[record[0]] / f"{index:05d}.png"
                path.write_bytes(encode_png(np.ascontiguousarray(image)))
                done += 1
                if progress is not None:
                    progress(done, total)


def _records(path: Path, labels: int) -> NDArray[np.uint8]:
    """The records of a batch (N, labels + 3072)."""
    size = labels + 3 * SIDE * SIDE
    data = np.fromfile(path, np.uint8)
    if len(data) == 0 or len(data) % size:
        raise DataError(
            f"{path}: {len(data)} bytes are no whole number of records of {size}; the download "
            "was cut short"
        )
    return data.reshape(-1, size)
