"""metrics.csv follows the history exactly; TensorBoard hides what a lost epoch left behind."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from sanflow.errors import InputError
from sanflow.training.log import METRICS, TENSORBOARD, Board, Clock, write_metrics


def test_metrics_are_replaced_by_the_history(tmp_path: Path) -> None:
    rows = [{"epoch": e, "loss": 1 / e} for e in (1, 2, 3)]
    write_metrics(tmp_path, rows)
    write_metrics(tmp_path, rows[:2])
    with (tmp_path / METRICS).open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [(int(r["epoch"]), float(r["loss"])) for r in read] == [(1, 1.0), (2, 0.5)]
    assert [p.name for p in tmp_path.iterdir()] == [METRICS]


def test_board_purges_the_steps_of_a_lost_epoch(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = Board(tmp_path, 0)
    for step in range(6):
        board.write("train", {"loss": 1.0}, step)
    board.close()
    resumed = Board(tmp_path, 4)
    for step in range(4, 8):
        resumed.write("train", {"loss": 2.0}, step)
    resumed.close()
    events = accumulator.EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    read = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert read == [(s, 1.0) for s in range(4)] + [(s, 2.0) for s in range(4, 8)]


# The thread that could not write says so itself, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_board_on_a_full_disk(small_disk: Path, fill: Callable[[], Path]) -> None:
    board = Board(small_disk, 0)
    fill()

    def write() -> None:
        for step in range(1000):
            board.write("train", {"loss": 1.0}, step)

    for act in (write, board.flush, board.close, lambda: Board(small_disk / "new", 0)):
        with pytest.raises(InputError, match="tensorboard: cannot be written: No space left"):
            act()


def test_eta_is_the_pace_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(done=50, total=100)
    now[0] += 30
    assert clock.eta(60) == pytest.approx(120)  # 3 s a step, 40 left
    assert clock.eta(100) == 0
