"""Faults with hysteresis and the heartbeat; the queue and the configuration."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.errors import ConfigError, InputError
from sanflow.runtime.line.config import load, seconds
from sanflow.runtime.line.queue import PartQueue
from sanflow.runtime.line.result import PartResult
from sanflow.runtime.line.state import UNUSABLE, Keeper

LATE, RECOVER = 3, 5


def result(kind: str, number: int = 1) -> PartResult:
    judged = kind == "judged"
    return PartResult(
        result=number,
        part=number,
        verdict="OK" if judged else "NG",
        reason="" if judged else "deadline" if kind == "late" else "no_image",
        detail="",
        score=0.1 if judged else None,
        threshold=1.0,
        uncertain=False,
        late=kind == "late",
        source="sim:",
        sequence=number,
        image="",
        encoder=None,
        bundle="b",
        engine="e",
        created="2026-01-31T12:00:00.000Z",
        wait_ms=0.0,
        prepare_ms=0.0,
        engine_ms=0.0,
        total_ms=1.0,
        run="0123456789abcdef",
    )


@given(st.lists(st.sampled_from(["late", "judged", "unseen"]), max_size=60))
def test_lateness_is_a_fault_with_hysteresis(kinds: list[str]) -> None:
    keeper = Keeper(LATE, RECOVER)
    keeper.stage("Ready")
    late = timely = 0
    fault = False
    for kind in kinds:
        keeper.result(result(kind))
        keeper.advance()
        if kind == "late":
            late, timely = late + 1, 0
        elif kind == "judged":
            late, timely = 0, timely + 1
        fault = (fault or late >= LATE) and timely < RECOVER
        state = keeper.snapshot(0)
        assert bool(state.fault) == fault
        assert state.state == ("Error" if fault else "Running")
    assert keeper.heartbeat == kinds.count("judged")


def test_pictures_that_cannot_be_judged_are_told_until_one_can() -> None:
    keeper = Keeper(LATE, RECOVER)
    wrong = replace(result("unseen"), reason="incomplete", detail="40 x 30 pixels")
    for _ in range(UNUSABLE - 1):
        keeper.result(wrong)
    keeper.result(result("unseen"))  # no picture says nothing about pictures
    assert keeper.snapshot(0).warning == ""
    told = set()
    for number in range(3):
        keeper.result(replace(wrong, detail=wrong.detail + "!" * number))
        told.add(keeper.snapshot(0).warning)
    # One text, told once.
    assert told == {f"{UNUSABLE} or more pictures in a row could not be judged: 40 x 30 pixels"}
    assert keeper.snapshot(0).fault == ""
    keeper.result(result("judged"))
    assert keeper.snapshot(0).warning == ""
    keeper.result(wrong)
    assert keeper.snapshot(0).warning == ""


def test_nobody_misses_ready_however_soon_the_first_part_comes() -> None:
    keeper = Keeper(LATE, RECOVER)
    keeper.stage("Initialized")
    keeper.result(result("unseen"))
    keeper.stage("Ready")
    keeper.advance()  # a part before Ready begins nothing
    keeper.result(result("judged"))
    assert keeper.snapshot(0).state == "Ready"
    keeper.advance()
    assert keeper.snapshot(0).state == "Running"


def test_faults_are_told_on_top_of_the_stage() -> None:
    keeper = Keeper(LATE, RECOVER)
    assert keeper.snapshot(0).state == "Preoperational"
    keeper.stage("Ready")
    keeper.fault("source", "gone")
    keeper.warning("journal", "disk full")
    state = keeper.snapshot(2)
    assert (state.state, state.fault, state.warning) == ("Error", "gone", "disk full")
    assert state.queue == 2
    keeper.fault("source", "")
    assert keeper.snapshot(0).state == "Ready"


def test_the_queue_is_bounded_and_first_in_first_out() -> None:
    queue: PartQueue[int, str] = PartQueue(3, "old")
    assert [queue.put(part) for part in range(5)] == [True, True, True, False, False]
    assert queue.take(lambda engine: 2, 1.0) == ([0, 1], "old")
    assert queue.switch("new") == "old"
    assert queue.take(lambda engine: 9, 1.0) == ([2], "new")
    assert queue.take(lambda engine: 1, 0.01) == ([], "new")
    queue.put(7)
    queue.close()
    assert not queue.put(8)
    assert queue.take(lambda engine: 1, 1.0) == ([7], "new")
    assert queue.take(lambda engine: 1, 1.0) is None


def test_only_one_thread_finds_the_queue_idle_at_a_time() -> None:
    """However many workers wait, one of them checks the engine per period."""
    queue: PartQueue[int, str] = PartQueue(3, "engine")
    idle: list[float] = []

    def wait() -> None:
        while (taken := queue.take(lambda engine: 1, 0.2)) is not None:
            assert taken[0] == []
            idle.append(time.monotonic())

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.1)
    queue.close()
    for thread in threads:
        thread.join()
    assert 1 <= len(idle) <= 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50ms", 0.05), ("1.5 s", 1.5), ("2min", 120.0), ("100us", 1e-4), ("1h", 3600.0)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "50", "ms", "-1s", "0ms", "1 day", "1e3s", "nan s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="give a number above 0 and a unit"):
        seconds(text)


def test_flags_replace_the_file(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_text('[line]\ndeadline = "1s"\nqueue = 4\n[[output]]\nkind = "csv"\n[monitor]\n')
    found = load(path, line__deadline="50ms", line__queue=None)
    assert (found.line.deadline, found.line.queue) == ("50ms", 4)
    assert found.output == ({"kind": "csv"},)
    assert found.archive is None
    assert found.monitor == {}


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[line]\nhang = 'soon'", "hang: 'soon' is not a duration"),
        ("[source]\ntrigger = 'hard'", "'free', 'software', 'external'"),
        ("[sauce]", "did you mean 'source'"),
        ("archive = 3", r"expected a table, \[archive\]"),
        ("[line]\nworkers = -1", "workers is -1"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, toml: str, message: str) -> None:
    path = tmp_path / "line.toml"
    path.write_text(toml)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ['source = "sim:"', '[[source]]\nuri = "sim:"'])
def test_a_flag_for_what_is_no_table_in_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"line\.toml\.source: expected a table"):
        load(path, source__uri="sim:")
