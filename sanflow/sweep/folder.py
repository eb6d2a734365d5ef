"""What a sweep leaves on disk, and what may be in it already.

    OUT/sweep.lock                    held while a sweep works here
    OUT/cells/NAME/cell.json          what the cell is, before it begins
    OUT/cells/NAME/attempts.txt       a line each time a process takes it up
    OUT/cells/NAME/run, bundle, report
    OUT/cells/NAME/log.txt            what its processes said
    OUT/cells/NAME/failed.json        why the last process ended without a result
    OUT/cells/NAME/result.json        its figures: the cell is done

A cell without result.json is taken up again; training goes on after its last finished epoch.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import schema
from ..errors import ConfigError, InputError
from ..run import now, replace_file
from .config import flat
from .plan import Cell

CELL, RESULT, FAILED, ATTEMPTS, LOG = (
    "cell.json",
    "result.json",
    "failed.json",
    "attempts.txt",
    "log.txt",
)


@dataclass(frozen=True)
class Result:
    """The figures of a finished cell."""

    created: str
    versions: dict[str, str]
    host: str
    fingerprint: str
    """Of the data set's images."""
    images: dict[str, int]
    """By role, and of the test also `good` and `defective`."""
    metrics: dict[str, float | None]
    """`image` and `pixel` (AUROC), `aupro`, `image_ap`, `aupro_cflow`; None where none exists."""
    parity: dict[str, float | None]
    """`flips` outside the band, `score` and `map`: the largest errors of the exported graph."""
    seconds: dict[str, float]
    """`train`, with what went before the epochs, `calibrate`, `export`, `verify`, `evaluate`."""
    parameters: dict[str, int]
    """`trained`, and `all` with the extractor's."""
    peak_memory: float | None
    """MiB, of the process; None where the operating system does not say."""
    peak_gpu_memory: float | None
    """MiB that PyTorch took at most; None without a GPU."""
    attempts: int
    schema: Literal["sanflow.result/1"] = "sanflow.result/1"


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result."""

    error: str
    created: str


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell."""

    path: Path

    @property
    def cell(self) -> Cell:
        """What the cell is."""
        return schema.load(Cell, _read(self.path / CELL), str(self.path / CELL))

    @property
    def result(self) -> Result | None:
        """Its figures; None while it is not done."""
        path = self.path / RESULT
        return schema.load(Result, _read(path), str(path)) if path.is_file() else None

    @property
    def failure(self) -> Failure | None:
        """Why its last process failed; None if it did not."""
        path = self.path / FAILED
        return schema.load(Failure, _read(path), str(path)) if path.is_file() else None

    @property
    def attempts(self) -> int:
        """How many processes have taken it up."""
        path = self.path / ATTEMPTS
        return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0

    def differing(self, cell: Cell) -> str:
        """In words, what the folder was begun with that `cell` has not; empty if it is the same."""
        if not (self.path / CELL).is_file():
            return ""
        was, now_ = flat(_read(self.path / CELL)), flat(schema.dump(cell))
        found = [
            f"{name} = {now_.get(name)!r} (was {was.get(name)!r})"
            for name in (was | now_)
            if was.get(name) != now_.get(name)
        ]
        return f"was begun with other values: {'; '.join(found[:5])}" if found else ""

    def prepare(self, cell: Cell) -> None:
        """Write what the cell is; ConfigError where the folder holds another one."""
        if differing := self.differing(cell):
            raise ConfigError(f"{self.path} {differing}; give another --out, or remove this folder")
        if (self.path / CELL).is_file():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._write(CELL, cell)

    def begin(self) -> None:
        """Note that this process takes the cell up, and remove what a killed one left half-made."""
        for left in self.path.glob(".*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        line = f"{now()} {platform.node()} {os.getpid()}\n"
        with (self.path / ATTEMPTS).open("a", encoding="utf-8") as file:
            file.write(line)
        (self.path / FAILED).unlink(missing_ok=True)

    def finish(self, result: Result) -> None:
        """Write the figures: from now on the cell is done."""
        self._write(RESULT, result)

    def fail(self, error: str) -> None:
        """Write why there are none."""
        self._write(FAILED, Failure(error, now()))

    def _write(self, name: str, value: object) -> None:
        text = json.dumps(schema.dump(value), indent=1, ensure_ascii=False) + "\n"
        replace_file(self.path / name, lambda file: file.write_text(text, encoding="utf-8"))


def _read(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON table")
    return value
