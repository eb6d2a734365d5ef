"""What the first process keeps of each epoch: checkpoint, metrics.csv, TensorBoard, progress."""

from __future__ import annotations

import time
from types import TracebackType

from ..run import Run
from . import checkpoint
from .checkpoint import Checkpoint
from .distributed import Group
from .log import Board, Clock, Report, Status, write_metrics
from .loop import Loop


class Journal:
    """The history of a run: one row per finished epoch, kept before the next one begins."""

    def __init__(
        self, run: Run, loop: Loop, group: Group, history: list[dict[str, float]], report: Report
    ) -> None:
        self.run = run
        self.loop = loop
        self.history = history
        self.report = report
        self.epochs = run.config.optim.epochs
        done = len(history) * loop.steps
        self.clock = Clock(done, self.epochs * loop.steps)
        self.board = Board(run.path, done + 1) if group.leads else None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.board is not None:
            self.board.close()

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """Report one step of the epoch in progress."""
        done = len(self.history) * self.loop.steps + step + 1
        if self.board is not None:
            self.board.write("step", {"loss": loss, "learning_rate": learning_rate}, done)
        self.report(
            Status(
                phase="train",
                done=done,
                total=self.clock.total,
                epoch=len(self.history) + 1,
                epochs=self.epochs,
                loss=loss,
                learning_rate=learning_rate,
                eta=self.clock.eta(done),
            )
        )

    def epoch(self, means: dict[str, float], images: int, started: float) -> None:
        """Keep a finished epoch that trained on `images` images since `started` (monotonic)."""
        seconds = time.monotonic() - started
        done = (len(self.history) + 1) * self.loop.steps
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "step": done,
                "learning_rate": self.loop.schedule(done - 1),
                **means,
                "seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 3),
            }
        )
        if self.board is None:
            return
        self.board.write("epoch", means, done)
        self.board.flush()  # before the checkpoint: what a lost epoch left is hidden on resuming
        optimizer, scaler = self.loop.state()
        checkpoint.save(
            self.run.path,
            Checkpoint(
                model=checkpoint.learned(self.loop.model),
                optimizer=optimizer,
                scaler=scaler,
                history=self.history,
            ),
        )
        write_metrics(self.run.path, self.history)
