"""What Prometheus reads is what the results said."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..outputs.conftest import DIGEST, a_result, a_state, rejected
from .kit import ask, metrics, monitor, value


def test_every_result_is_counted_once_by_verdict_and_reason(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, port):
        for number in range(1, 31):
            made.emit(a_result(number), None)
        made.emit(rejected(31), None)
        made.emit(rejected(32, "no_image"), None)
        found = metrics(port)
    assert value(found, "sanflow_results_total", verdict="OK", reason="") == 20
    assert value(found, "sanflow_results_total", verdict="NG", reason="score") == 10
    assert value(found, "sanflow_results_total", verdict="NG", reason="deadline") == 1
    assert value(found, "sanflow_results_total", verdict="NG", reason="no_image") == 1
    counts = [v for (name, _), v in found.items() if name == "sanflow_results_total"]
    assert sum(counts) == value(found, "sanflow_verdict_seconds_count") == 32
    assert value(found, "sanflow_stage_seconds_count", stage="engine") == 30


def test_histogram_and_quantiles_against_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    scores, times = rng.normal(1, 0.2, 1500), rng.gamma(2, 10, 1500)
    with monitor(tmp_path) as (made, port):
        for number, (score, ms) in enumerate(zip(scores, times, strict=True), 1):
            row = a_result(number, score=score, threshold=9.0, verdict="OK", reason="", total_ms=ms)
            made.emit(row, None)
        found = metrics(port)
    for level in (0.05, 0.5, 0.99):
        expected = np.quantile(scores[-1000:], level)
        assert np.isclose(value(found, "sanflow_score", quantile=f"{level:g}"), expected)
    for limit in (0.001, 0.02, 0.1):
        counted = value(found, "sanflow_verdict_seconds_bucket", le=str(limit))
        assert counted == (times <= 1e3 * limit).sum()


def test_the_state_is_the_one_that_was_said_last(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, port):
        assert value(metrics(port), "sanflow_healthy") == 0
        made.announce(a_state(queue=2))
        made.emit(a_result(), None)
        found = metrics(port)
        assert value(found, "sanflow_healthy") == 1
        assert value(found, "sanflow_queue_parts") == 2
        assert value(found, "sanflow_state", state="Ready") == 1
        names = {"station": "cell-7", "bundle": DIGEST, "engine": "onnxruntime 1.0 fp32"}
        assert value(found, "sanflow_station_info", **names) == 1
        made.announce(a_state(state="Error", fault="the camera is lost", heartbeat=2))
        found = metrics(port)
        assert value(found, "sanflow_healthy") == 0
        assert value(found, "sanflow_fault") == 1
        assert value(found, "sanflow_state", state="Ready") == 0


def test_outputs_that_fail_are_seen(tmp_path: Path) -> None:
    with monitor(tmp_path) as (made, port):
        made.meet(lambda: {"mqtt:x": {"waiting": 7, "trouble": "refused"}, "csv": {"trouble": ""}})
        found = metrics(port)
    assert value(found, "sanflow_output_working", output="mqtt:x") == 0
    assert value(found, "sanflow_output_waiting", output="mqtt:x") == 7
    assert value(found, "sanflow_output_working", output="csv") == 1


def test_an_unknown_page_says_which_there_are(tmp_path: Path) -> None:
    with monitor(tmp_path) as (_, port):
        status, body = ask(port, "/metric")
        assert status == 404
        assert b"/metrics" in body
