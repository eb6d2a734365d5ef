"""A PLC's triggers become parts: each part id one verdict, whenever it comes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sanflow.bundle import Bundle

from .station_kit import LIVE, Trigger, running, station, until


def test_a_trigger_before_ready_is_not_ready(bundle: Bundle, tmp_path: Path) -> None:
    plc = Trigger(early=3)
    made, seen = station(
        bundle, tmp_path / "s", "sim:", outputs=[plc], source__trigger="software", deadline="5s"
    )
    with running(made):
        until(lambda: made.keeper.snapshot(0).state == "Ready")
        plc.control.trigger(100)
        until(lambda: len(seen.results) == 4)
    assert [(r.part, r.reason) for r in seen.results][:3] == [(n, "not_ready") for n in range(3)]
    assert seen.results[3].part == 100
    assert seen.results[3].score is not None


def test_a_part_that_is_triggered_twice_gets_one_verdict(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plc = Trigger()
    made, seen = station(
        bundle,
        tmp_path / "s",
        "sim:noise?size=24x20&drop=1",  # no picture comes: the part stays open
        outputs=[plc],
        source__trigger="software",
        deadline="300ms",
    )
    with running(made):
        until(lambda: made.keeper.snapshot(0).state == "Ready")
        plc.control.trigger(7)
        plc.control.trigger(7)
        until(lambda: seen.results)
        time.sleep(0.5)
    assert [(r.part, r.reason, r.late) for r in seen.results] == [(7, "no_image", False)]
    assert caplog.messages.count("trigger: part 7 waits for its verdict already") == 1


def test_triggers_without_a_triggered_camera_are_answered(bundle: Bundle, tmp_path: Path) -> None:
    plc = Trigger()
    made, seen = station(bundle, tmp_path / "s", LIVE + "&count=1", outputs=[plc])
    made.run()
    assert len(seen.results) == 1
    made, seen = station(bundle, tmp_path / "t", "sim:?rate=0.001", outputs=[plc])
    with running(made):
        until(lambda: made.keeper.snapshot(0).state in ("Ready", "Running"))
        plc.control.trigger(9)
        until(lambda: any(r.part == 9 for r in seen.results))
    (found,) = [r for r in seen.results if r.part == 9]
    assert found.reason == "no_image"
    assert 'trigger = "software"' in found.detail
