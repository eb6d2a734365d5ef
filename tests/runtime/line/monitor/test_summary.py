"""A day's summary: what the results said, once each, whatever ends in between."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.runtime.line.monitor import summary
from sanflow.runtime.line.monitor.summary import Day, Summary
from sanflow.runtime.line.result import PartResult

from ..outputs.conftest import a_result, a_state, rejected
from .kit import ask, monitor

REASONS = ["", "score", "deadline", "no_image"]


def part(number: int, reason: str, ms: float = 5.0, day: int = 1, hour: int = 12) -> PartResult:
    created = f"2026-03-{day:02d}T{hour:02d}:00:00.000Z"
    if reason in ("", "score"):
        scored = {"score": 2.5 if reason else 0.5, "verdict": "NG" if reason else "OK"}
        return a_result(number, reason=reason, created=created, total_ms=ms, **scored)
    return rejected(number, reason, created=created, total_ms=ms)


def file(folder: Path, date: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary" / f"{date}.json").read_text("utf-8"))
    return found


@given(
    st.lists(
        st.tuples(st.sampled_from(REASONS), st.integers(0, 23), st.floats(0.01, 9000)), min_size=1
    ),
    st.data(),
)
def test_counts_are_the_results_however_often_they_come_and_it_restarts(
    parts: list[tuple[str, int, float]], data: Any
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = Summary(folder, 10)
        for number, (reason, hour, ms) in enumerate(parts, 1):
            assert found.count(part(number, reason, ms, hour=hour))
            if data.draw(st.booleans()):
                assert not found.count(part(number, reason, ms, hour=hour))
            if data.draw(st.integers(0, 5)) == 0:
                found.save(force=True)
                found = Summary(folder, 10)  # a new life, which is told the last ones again
                assert not found.count(part(number, reason, ms, hour=hour))
        found.save(force=True)
        day = file(folder, "2026-03-01")
    rejects = Counter(reason for reason, _, _ in parts if reason)
    assert day["parts"] == len(parts)
    assert day["ng"] == sum(rejects.values())
    assert day["ok"] == len(parts) - day["ng"]
    assert day["reasons"] == rejects
    assert {int(h): n for h, (n, _) in day["hours"].items()} == Counter(h for _, h, _ in parts)
    assert sum(n for _, n in day["hours"].values()) == day["ng"]
    assert day["slowest_ms"] == max(ms for _, _, ms in parts)


@given(st.lists(st.floats(0.01, 9000), min_size=1), st.floats(0.01, 1))
def test_times_are_at_most_twelve_percent_too_long(times: list[float], share: float) -> None:
    day = Day("2026-03-01")
    for number, ms in enumerate(times, 1):
        day.count(part(number, "", ms))
    exact = np.quantile(times, share, method="inverted_cdf")
    found = day.time_ms(share)
    assert found is not None
    assert exact * 0.999 - 1e-3 <= found <= exact * 1.123 + 1e-3
    assert found <= max(times) + 1e-3
    assert Day("2026-03-01").time_ms(0.5) is None


def test_each_day_has_its_file_and_old_ones_go(tmp_path: Path) -> None:
    found = Summary(tmp_path, 3)
    for number, day in enumerate((1, 1, 2, 4, 5, 6), 1):
        found.count(part(number, "", day=day))
    found.save(force=True)
    assert [d.date for d in found.days(10)] == ["2026-03-06", "2026-03-05", "2026-03-04"]
    assert [d.date for d in found.days(1)] == ["2026-03-06"]
    (tmp_path / "summary" / "2026-03-06.json").write_text("[]")
    assert [d.date for d in found.days(2)] == ["2026-03-05"]


def test_a_disk_that_takes_nothing_is_said_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "SAVE", 0.0)
    (tmp_path / "summary").write_text("a file where a folder is to be")
    found = Summary(tmp_path, 3)
    assert found.count(part(1, ""))
    found.save()
    assert "2026-03-01.json" in found.trouble
    (tmp_path / "summary").unlink()
    found.save()
    assert found.trouble == ""
    assert file(tmp_path, "2026-03-01")["parts"] == 1


def test_faults_are_counted_when_they_begin(tmp_path: Path) -> None:
    found = Summary(tmp_path, 3)
    found.count(part(1, ""))
    for fault in ("camera lost", "camera lost", "", "camera lost", "late"):
        found.announce(a_state(state="Error" if fault else "Ready", fault=fault))
    for number in range(2 * summary.MOST_FAULTS):
        found.announce(a_state(state="Error", fault=f"fault {number}"))
    found.alarm("rising")
    found.save(force=True)
    day = file(tmp_path, "2026-03-01")
    assert day["faults"]["camera lost"] == 2
    assert day["faults"]["late"] == 1
    assert len(day["faults"]) == summary.MOST_FAULTS + 1
    assert sum(day["faults"].values()) == 3 + 2 * summary.MOST_FAULTS
    assert day["drift"] == {"rising": 1}


def test_the_last_parts_are_written_with_the_next_heartbeat(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, _):
        made.emit(part(1, ""), None)
        made.emit(part(2, ""), None)
        time.sleep(1.1 * summary.SAVE)
        made.announce(a_state())
        assert file(tmp_path, "2026-03-01")["parts"] == 2


def test_the_days_are_served_and_results_that_come_again_change_nothing(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, _):
        for number in range(1, 6):
            made.emit(part(number, REASONS[number % 4]), None)
    with monitor(tmp_path) as (made, port):
        for number in range(3, 8):
            made.emit(part(number, REASONS[number % 4]), None)
        made.close()
        made.open()
        (day,) = json.loads(ask(port, "/summary")[1])
    assert day["parts"] == 7
    assert day["p50_ms"] == pytest.approx(5, rel=0.1)
