"""Figures that mean what they say: percentiles that occurred, cold starts from a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow import schema
from sanflow.bundle import Bundle
from sanflow.errors import EngineError, InputError
from sanflow.runtime import bench as module
from sanflow.runtime.bench import bench, latency

from .conftest import MakeBundle


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300))
def test_percentiles_are_durations_that_occurred(times: list[float]) -> None:
    found = latency(times)
    occurred = {round(value, 4) for value in times}
    assert found.runs == len(times)
    known = [found.min, found.p50, found.p90, found.p99, found.p99_9, found.max]
    present = [value for value in known if value is not None]
    assert present == sorted(present)
    assert set(present) <= occurred
    assert found.min - 1e-4 <= found.mean <= found.max + 1e-4
    assert sum(value <= found.p50 + 1e-4 for value in times) >= len(times) / 2


@pytest.mark.parametrize(
    ("runs", "known"),
    [(9, 0), (10, 1), (99, 1), (100, 2), (999, 2), (1000, 3), (5000, 3)],
)
def test_a_percentile_needs_a_run_beyond_it(runs: int, known: int) -> None:
    found = latency(list(np.random.default_rng(0).permutation(runs) + 1.0))
    given = [value is not None for value in (found.p90, found.p99, found.p99_9)]
    assert given == [True] * known + [False] * (3 - known)
    if found.p99_9 is not None:
        # Of 1000 different durations, 1, 10 and 100 are longer.
        assert runs - found.p99_9 == pytest.approx(runs / 1000, abs=1)
        assert found.p99 is not None
        assert runs - found.p99 == pytest.approx(runs / 100, abs=1)


@pytest.mark.parametrize(("target", "batch"), [("onnx", 1), ("openvino", 3)])
def test_everything_is_measured(make_bundle: MakeBundle, target: str, batch: int) -> None:
    bundle = make_bundle(target=target, batch=batch)
    ticks: list[tuple[int, int]] = []
    report = bench(
        bundle.path, runs=12, warmup=2, cold_starts=1, threads=1,
        progress=lambda done, total: ticks.append((done, total)),
    )  # fmt: skip
    assert ticks == [(done, 24) for done in range(1, 25)]
    assert report.image_ms.runs == report.engine_ms.runs == 12
    assert report.image_ms.min > 0
    assert report.engine_ms.p99 is None
    assert report.images_per_second == pytest.approx(1e3 * batch / report.engine_ms.mean, rel=1e-3)
    cold = report.cold_start
    assert 0 < cold.first_s < cold.total_s < 120
    assert cold.import_s + cold.open_s + cold.first_s == pytest.approx(cold.total_s, abs=0.01)
    # A fresh process: NumPy, OpenCV and an engine; no torch, no test suite.
    assert report.peak_rss_mib is None or 20 < report.peak_rss_mib < 400
    assert report.digest == bundle.manifest.digest
    assert report.engine.split()[0] == ("onnxruntime" if target == "onnx" else "openvino")
    assert (report.threads, report.batch, report.target) == (1, batch, target)
    assert report.machine.cpus >= 1
    assert set(report.versions) == {"sanflow", "numpy", "opencv"}
    assert json.loads(json.dumps(schema.dump(report), allow_nan=False))["image_ms"]["runs"] == 12
    text = dict(report.rows())
    assert "too few runs for p99, p99.9" in text["image to verdict"]
    assert "images/s" in text["throughput"]


def test_time_is_limited(bundle: Bundle) -> None:
    report = bench(bundle, runs=10**6, seconds=0.2, warmup=1, cold_starts=1, threads=1)
    assert 1 <= report.engine_ms.runs < 10**5


@pytest.mark.parametrize("bad", [{"runs": 0}, {"seconds": 0.0}, {"warmup": 0}, {"cold_starts": 0}])
def test_counts_must_be_positive(bundle: Bundle, bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected positive numbers"):
        bench(bundle, **bad)


def test_an_engine_that_cannot_run_is_no_benchmark(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="Python package is not in this environment"):
        bench(bundle, engine="tensorrt")
    from sanflow.runtime.ort import OrtEngine

    def fail(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(OrtEngine, "_run", fail)
    with pytest.raises(EngineError, match="device lost"):
        bench(bundle, threads=1)


def test_a_child_that_fails_says_why(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"fresh process could not judge: .*unknown engine"):
        module._start(bundle.path, "abacus", 1, None)


def test_a_child_that_hangs_is_stopped(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHILD_SECONDS", 0.01)
    with pytest.raises(EngineError, match=r"no verdict within 0\.01 s"):
        module._start(bundle.path, "onnxruntime", 1, None)


def test_the_child_holds_the_runtime_and_nothing_more(bundle: Bundle) -> None:
    """In the process whose memory is measured, as in the user's."""
    code = (
        "import sys; from sanflow.runtime.cold import main; "
        f"found = main({str(bundle.path)!r}, 'onnxruntime', 1, None); "
        "heavy = {'torch', 'onnx', 'sklearn', 'scipy', 'matplotlib', 'openvino', 'pandas'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "assert found['imported'] <= found['opened'] <= found['judged'], found"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=module.child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_warming_up_does_not_eat_the_time_for_measuring() -> None:
    calls: list[float] = []
    budget = module._Budget(runs=1000, seconds=0.5, warmup=1000, progress=None)
    found = budget.measure(lambda seconds: calls.append(seconds) or time.sleep(seconds), [0.02])
    assert found.runs > len(calls) / 2
