"""Healthy is only a station whose verdicts may be trusted now."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.bundle import Bundle
from sanflow.runtime.line.journal import Follower
from sanflow.runtime.line.monitor.health import Health
from sanflow.runtime.line.monitor.options import MonitorOptions
from sanflow.runtime.line.monitor.output import MonitorOutput
from sanflow.runtime.line.monitor.summary import Summary
from sanflow.runtime.line.output import OutputError, StationState
from sanflow.runtime.line.outputs import Site

from ..outputs.conftest import a_state, eventually, free_port
from .kit import ask, health, metrics, monitor, value

STATES = st.builds(
    StationState,
    state=st.sampled_from(["Preoperational", "Halted", "Error", "Initialized", "Ready", "Running"]),
    fault=st.sampled_from(["", "the camera is lost"]),
    heartbeat=st.integers(0, 3),
    bundle=st.just(""),
    queue=st.just(0),
    warning=st.sampled_from(["", "disk full"]),
)


@given(st.lists(st.tuples(st.floats(0, 20), STATES), min_size=1))
def test_it_is_healthy_exactly_if_ready_without_fault_and_beating(
    told: list[tuple[float, StationState]],
) -> None:
    now, beat, last = 0.0, 0.0, None
    found = Health(15.0, lambda: now)
    assert found.problem
    for pause, state in told:
        now += pause
        if state.heartbeat != last:
            beat, last = now, state.heartbeat
        found.announce(state)
    now += 7.0
    beating = now - beat <= 15.0
    working = state.state in ("Ready", "Running") and not state.fault
    assert (found.problem == "") == (beating and working)
    assert found.document({}, {})["healthy"] == (beating and working)


def test_a_heart_that_stops_is_unhealthy_though_nobody_says_a_fault(tmp_path: Path) -> None:
    with monitor(tmp_path, stale="50ms") as (made, port):
        assert health(port)[0] == 503
        made.announce(a_state(warning="disk full"))
        eventually(lambda: health(port)[0] == 503)
        assert "no heartbeat" in health(port)[1]["problem"]
        assert health(port)[1]["warning"] == "disk full"


def test_a_port_that_is_taken_is_said_and_had_later(tmp_path: Path) -> None:
    with monitor(tmp_path) as (_, port):
        second = MonitorOutput(MonitorOptions(port=port), Site(tmp_path))
        said = f"127.0.0.1:{port} cannot be listened on: .*another .monitor. port"
        with pytest.raises(OutputError, match=said):
            second.open()
    unknown = MonitorOutput(MonitorOptions(host="no.host.invalid"), Site(tmp_path))
    with pytest.raises(OutputError, match=r"no.host.invalid:9464 .*another .monitor. host"):
        unknown.open()
    second.open()
    assert ask(port, "/health")[0] == 503
    second.close()


LINE = """
[line]
deadline = "5s"
idle_check = "200ms"
[source]
uri = "sim:noise?size=24x20&rate=30"
[monitor]
port = {port}
stale = "2s"
[[output]]
kind = "csv"
"""


@pytest.mark.skipif(shutil.which("pkill") is None, reason="no pkill here")
def test_a_station_that_is_frozen_and_whose_slow_process_is_killed(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Frozen, the real-time process can say nothing; the monitor loses few counts if killed."""
    port = free_port()
    (tmp_path / "line.toml").write_text(LINE.format(port=port))
    command = [sys.executable, "-m", "sanflow", "run", str(bundle.path), "--out"]
    command += [str(tmp_path / "out"), "--config", str(tmp_path / "line.toml"), "--threads", "1"]

    def healthy() -> bool:
        try:
            return health(port)[0] == 200
        except OSError:
            return False

    with subprocess.Popen(command) as station:
        try:
            eventually(healthy, 60)
            assert health(port)[1]["outputs"]["csv:results"]["trouble"] == ""
            eventually(lambda: _judged(port) > 20, 60)
            assert health(port)[1]["drift"]["calibration_parts"] > 0
            station.send_signal(signal.SIGSTOP)
            eventually(lambda: not healthy(), 30)
            assert "no heartbeat" in health(port)[1]["problem"]
            station.send_signal(signal.SIGCONT)
            eventually(healthy, 60)
            subprocess.run(["pkill", "-KILL", "-P", str(station.pid)], check=True)
            eventually(lambda: not healthy(), 30)
            eventually(healthy, 60)  # the station starts its slow process again
            eventually(lambda: _judged(port) > 20, 60)
        finally:
            station.send_signal(signal.SIGCONT)
            station.terminate()
            assert station.wait(60) == 0
    results = len(list(Follower(tmp_path / "out" / "journal").rows()))
    (day, *more) = Summary(tmp_path / "out", 9).days(9)
    counted = day.parts + sum(other.parts for other in more)
    # What was counted and not yet written when it was killed: half a second at 30 parts a second.
    assert results - 30 <= counted <= results


def _judged(port: int) -> float:
    return value(metrics(port), "sanflow_stage_seconds_count", stage="engine")
