"""What training reports: progress while it runs, metrics.csv and TensorBoard on disk.

The rows of metrics.csv come from the checkpoint's own history and the file is replaced whole, so
that no crash can leave a row twice, half, or of an epoch that was lost.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import writing
from ..run import replace_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.csv"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Status:
    """One step of one phase; `loss`, `learning_rate` and `eta` (seconds) are set while training."""

    phase: Literal["check", "teach", "defects", "scale", "train"]
    done: int
    """Images checked or measured, or steps taught or trained over the whole run."""
    total: int
    epoch: int = 0
    """Counted from 1."""
    epochs: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    eta: float | None = None


Report = Callable[[Status], None]


class Clock:
    """Seconds left, from the pace since it was made."""

    def __init__(self, done: int, total: int) -> None:
        self.first, self.total = done, total
        self.start = time.monotonic()

    def eta(self, done: int) -> float:
        """Seconds until `total` when `done` are done."""
        taken = time.monotonic() - self.start
        return taken / max(1, done - self.first) * (self.total - done)


def write_metrics(run: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Replace RUN/metrics.csv with one row per finished epoch."""

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(history[0]) if history else [])
            writer.writeheader()
            writer.writerows(history)

    replace_file(run / METRICS, write)


class Board:
    """TensorBoard scalars; steps after `step` that a lost epoch left behind are hidden."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._path = run / TENSORBOARD
        with writing(self._path):
            self._writer: SummaryWriter = SummaryWriter(self._path, purge_step=step)

    def write(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Scalars `group/name` at optimiser step `step`."""
        with writing(self._path):
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self) -> None:
        """Write what is buffered."""
        with writing(self._path):
            self._writer.flush()

    def close(self) -> None:
        """Write what is buffered and end."""
        with writing(self._path):
            self._writer.close()
