"""Whether the engine is still to be trusted: golden samples while it rests, and false alarms."""

from __future__ import annotations

import time
from pathlib import Path

from sanflow.bundle import Bundle
from sanflow.errors import EngineError
from sanflow.runtime.line.swap import Judge, prove

from ..conftest import MakeBundle
from .faults import faulty
from .station_kit import LIVE, Trigger, running, station, until


def test_an_engine_that_goes_wrong_while_idle_is_found(bundle: Bundle, tmp_path: Path) -> None:
    opened: list[str] = []
    prove = faulty("nan", 3)

    def open_judge(path: str) -> Judge:
        opened.append(path)
        if len(opened) == 2:
            raise EngineError("it cannot be opened either")
        return prove(path)

    plc = Trigger()
    made, seen = station(
        bundle,
        tmp_path / "s",
        "sim:",
        open_judge=open_judge,
        outputs=[plc],
        idle_check="50ms",
        hang="500ms",
        source__trigger="software",
    )
    with running(made):
        until(lambda: made.keeper.snapshot(0).fault)
        assert "the self-test gave nan" in made.keeper.snapshot(0).fault
        assert made.keeper.heartbeat == 2
        plc.control.trigger(1)
        until(lambda: len(seen.results) == 1)
        until(lambda: not made.keeper.snapshot(0).fault)  # opened and proven anew
        plc.control.trigger(2)
        until(lambda: len(seen.results) == 2)
    assert seen.results[0].reason == "self_test"
    assert len(opened) >= 3


def test_a_retired_engines_check_takes_nobody_elses_place(bundle: Bundle, tmp_path: Path) -> None:
    judges: list[Judge] = []

    def open_judge(path: str) -> Judge:
        judges.append(prove(path, threads=1))
        return judges[-1]

    made, _ = station(bundle, tmp_path / "s", LIVE, open_judge=open_judge)
    with running(made):
        until(lambda: made.tally.ok > 3)
        made.swap(str(bundle.path))
        until(lambda: len(judges) == 2 and made.queue.engine is judges[1])
        made._judging._checked(judges[0], "the self-test gave nan")
        assert made.queue.engine is judges[1]
        assert made.keeper.snapshot(0).fault == ""
        made._judging._checked(judges[1], "the self-test gave nan")
        assert made.queue.engine is not judges[1]


def test_the_heart_stands_still_with_the_engine(bundle: Bundle, tmp_path: Path) -> None:
    made, _ = station(
        bundle,
        tmp_path / "s",
        "sim:?rate=0.001",
        open_judge=faulty("hang", 5, 1.0),
        idle_check="20ms",
        hang="60s",
    )
    with running(made):
        until(lambda: made.keeper.heartbeat == 4)
        time.sleep(0.5)
        assert made.keeper.heartbeat == 4
        until(lambda: made.keeper.heartbeat > 4)


def test_pictures_of_another_size_are_no_dead_engine(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """They come and come, and none reaches the engine: golden samples do, and why is said."""
    made, seen = station(
        make_bundle("sized", original=(24, 20)),
        tmp_path / "s",
        "sim:noise?size=30x40&rate=200",
        idle_check="100ms",
    )
    with running(made):
        until(lambda: made.keeper.heartbeat >= 5)
        state = made.keeper.snapshot(0)
    assert state.fault == ""
    assert state.state == "Running"
    assert "pictures in a row could not be judged: the picture is 40x30 (width" in state.warning
    assert not [result for result in seen.results if result.score is not None]
    # One per period, however many parts and workers there are.
    assert made.keeper.heartbeat < len(seen.results) / 2


def test_an_engine_that_is_always_late_is_no_dead_engine(bundle: Bundle, tmp_path: Path) -> None:
    """It was quick enough once, so it is asked for every part, and answers each too late."""

    def once_quick(path: str) -> Judge:
        judge = faulty("hang", 1, 0.06)(path)
        judge.fastest = 0.001
        return judge

    made, seen = station(
        bundle,
        tmp_path / "s",
        "sim:?rate=10",
        open_judge=once_quick,
        deadline="50ms",
        idle_check="200ms",
    )
    with running(made):
        until(lambda: made.keeper.heartbeat >= 4)
        state = made.keeper.snapshot(0)
    assert "were not judged by their deadline" in state.fault
    reasons = {result.reason for result in seen.results}
    assert "deadline" in reasons
    assert reasons <= {"deadline", "overflow"}  # a busy processor makes a queue, too
    assert made.emitter.discarded > 2, "the engine was asked, and answered"
