"""A slow output is told everything, in order, whatever it does; the slow side as a whole."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sanflow.runtime.line import feed as feed_module
from sanflow.runtime.line import journal as journal_module
from sanflow.runtime.line import slow as slow_module
from sanflow.runtime.line.feed import Feed
from sanflow.runtime.line.journal import Journal, numbers
from sanflow.runtime.line.output import Output, Picture, StationState
from sanflow.runtime.line.result import PartResult
from sanflow.runtime.line.ring import Board
from sanflow.runtime.line.slow import Assignment, make, serve
from sanflow.runtime.line.slowside import SlowSide

from .station_kit import until
from .test_state import result


class Flaky(Output):
    """Fails as it is told to, and keeps what it accepted."""

    def __init__(self, name: str, failures: dict[int, list[Exception]] | None = None) -> None:
        super().__init__(name)
        self.failures = failures or {}
        self.refused: set[int] = set()
        """Results for which the disk is always full."""
        self.seen: list[int] = []
        self.states: list[StationState] = []
        self.closed = False

    def open(self) -> None: ...

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        if result.result in self.refused:
            raise OSError("full")
        if waiting := self.failures.get(result.result):
            raise waiting.pop()
        self.seen.append(result.result)

    def announce(self, state: StationState) -> None:
        self.states.append(state)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(feed_module, "LONGEST_WAIT", 0.002)


def write(folder: Path, first: int, last: int) -> None:
    journal = Journal(folder / "journal")
    journal.append(vars(result("judged", number)) for number in range(first, last + 1))
    journal.close()


def feed(output: Output, folder: Path, state: StationState | None = None) -> Feed:
    return Feed(output, folder, lambda row: None, lambda: state)


def finish(running: Feed) -> None:
    running.close()
    assert running.join(10)


def test_a_second_life_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    write(tmp_path, 1, 20)
    first = Flaky("mqtt://host/a b")
    running = feed(first, tmp_path)
    running.start()
    until(lambda: len(first.seen) == 20)
    finish(running)
    assert first.closed
    write(tmp_path, 21, 30)
    second = Flaky("mqtt://host/a b")
    running = feed(second, tmp_path)
    running.start()
    until(lambda: len(second.seen) == 10)
    finish(running)
    assert first.seen + second.seen == list(range(1, 31))


def test_a_full_disk_is_waited_for_and_a_poisoned_row_is_not(tmp_path: Path) -> None:
    write(tmp_path, 1, 10)
    failures: dict[int, list[Exception]] = {
        3: [OSError("full") for _ in range(50)],
        7: [ValueError("no") for _ in range(50)],
    }
    output = Flaky("flaky", failures)
    running = feed(output, tmp_path)
    running.start()
    until(lambda: 10 in output.seen)
    finish(running)
    assert output.seen == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert running.skipped == 1
    assert running.health() == {"told": 9, "skipped": 1, "trouble": ""}


@pytest.mark.parametrize("row", [{"made_up": 1}, {"verdict": "OK", "score": None}, None, [1]])
def test_a_row_of_another_version_is_skipped_and_said(tmp_path: Path, row: Any) -> None:
    write(tmp_path, 1, 3)
    journal = Journal(tmp_path / "journal")
    journal.append([{**vars(result("judged", 4)), **row} if isinstance(row, dict) else row])
    journal.close()
    output = Flaky("older")
    running = feed(output, tmp_path)
    running.start()
    until(lambda: running.skipped == 1)
    assert "no result of this version" in running.trouble
    write(tmp_path, 5, 6)
    until(lambda: 6 in output.seen)
    finish(running)
    assert output.seen == [1, 2, 3, 5, 6]
    assert running.health() == {"told": 5, "skipped": 1, "trouble": ""}
    again = feed(Flaky("older"), tmp_path)
    again.start()
    finish(again)
    assert again.health() == {"told": 0, "skipped": 0, "trouble": ""}


def test_what_it_failed_on_at_the_end_is_told_next_time(tmp_path: Path) -> None:
    write(tmp_path, 1, 6)
    output = Flaky("flaky")
    output.refused = {4}
    running = feed(output, tmp_path)
    running.start()
    until(lambda: running.trouble)
    finish(running)
    assert output.seen == [1, 2, 3]
    again = Flaky("flaky")
    running = feed(again, tmp_path)
    running.start()
    until(lambda: len(again.seen) == 3)
    finish(running)
    assert again.seen == [4, 5, 6]


def test_one_that_fails_holds_up_nobody(tmp_path: Path) -> None:
    write(tmp_path, 1, 50)
    broken, fine = Flaky("broken"), Flaky("fine")
    broken.refused = {1}
    stop = threading.Event()
    serving = threading.Thread(target=serve, args=(tmp_path, [broken, fine], None, None, stop))
    serving.start()
    until(lambda: len(fine.seen) == 50)
    stop.set()
    serving.join(20)
    assert broken.seen == []
    assert fine.closed


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "webhook", "url": "https://mes/x"},
        {"kind": "mqtt", "host": "b", "tls": True},
    ],
)
def test_a_certificate_that_is_none_holds_up_nobody(
    table: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if table["kind"] == "mqtt":
        pytest.importorskip("paho.mqtt", reason="pip install sanflow[mqtt]")
    (tmp_path / "ca.pem").write_text("no certificate")
    write(tmp_path, 1, 5)
    outputs = [{"kind": "jsonl"}, {**table, "ca_file": "ca.pem"}]
    given = Assignment(str(tmp_path), "", "", "", 0, 0, 0, outputs, {}, None)
    made = make(given, tmp_path)
    stop = threading.Event()
    serving = threading.Thread(target=serve, args=(tmp_path, made, None, None, stop))
    serving.start()
    until(lambda: "cannot be used" in caplog.text)
    stop.set()
    serving.join(20)
    (file,) = (tmp_path / "results").iterdir()
    assert len(file.read_text().splitlines()) == 5


def test_a_journal_that_cannot_be_read_for_a_moment_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that gave way to newer ones just when it was to be opened; a disk with an error."""
    write(tmp_path, 1, 5)
    write(tmp_path, 6, 9)
    asked = 0

    def listed(folder: Path) -> list[int]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found = numbers(folder)
        (folder / "0001.jsonl").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(journal_module, "numbers", listed)
    output = Flaky("any")
    running = feed(output, tmp_path)
    running.start()
    until(lambda: output.seen or not running._thread.is_alive())
    finish(running)
    assert output.seen == [6, 7, 8, 9]
    assert running.trouble == ""


def test_files_that_cannot_be_removed_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that became read-only: the page and the brokers go on."""
    tried = threading.Event()

    def refused(folder: Path, before: int) -> None:
        tried.set()
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(slow_module, "forget", refused)
    write(tmp_path, 1, 5)
    output, stop = Flaky("page"), threading.Event()
    serving = threading.Thread(target=serve, args=(tmp_path, [output], None, None, stop))
    serving.start()
    assert tried.wait(10)
    write(tmp_path, 6, 9)
    until(lambda: 9 in output.seen or not serving.is_alive())
    time.sleep(0.3)
    assert serving.is_alive()
    stop.set()
    serving.join(20)
    assert output.closed


def test_the_state_is_announced_when_it_changes(tmp_path: Path) -> None:
    state = StationState("Ready", "", 1, "b", 0)
    output = Flaky("page")
    running = feed(output, tmp_path, state)
    running.start()
    until(lambda: output.states)
    finish(running)
    assert output.states == [state]


def test_the_slow_side_knows_the_state_with_no_room_for_pictures(tmp_path: Path) -> None:
    state = StationState("Error", "the self-test gave nan", 1, "b", 0)
    board = Board(tmp_path / "state", create=True)
    output, stop = Flaky("page"), threading.Event()
    args = (tmp_path, [output], None, Board(board.path, create=False), stop)
    serving = threading.Thread(target=serve, args=args)
    serving.start()
    board.tell(state)
    until(lambda: output.states)
    stop.set()
    serving.join(20)
    assert output.states == [state]


def test_files_that_everybody_read_are_removed(tmp_path: Path) -> None:
    for first in range(1, 80, 10):
        write(tmp_path, first, first + 9)
    output, stop = Flaky("all"), threading.Event()
    serving = threading.Thread(target=serve, args=(tmp_path, [output], None, None, stop))
    serving.start()
    until(lambda: len(numbers(tmp_path / "journal")) <= 4)
    stop.set()
    serving.join(20)
    assert output.seen == list(range(1, 81))


@pytest.mark.slow
def test_a_slow_side_that_dies_is_told_and_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    side = SlowSide({"nonsense": True}, said.append)
    side.look()
    until(lambda: (side.look(), side.starts)[1] == 2, 60)
    side.close(5)
    assert "ended with code 1" in said[0]
