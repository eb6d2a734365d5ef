"""A bundle with several graphs: which one an engine runs, and whose decision its scores meet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow import imaging
from sanflow.bundle import Bundle, Decision, with_decisions
from sanflow.cli import app
from sanflow.errors import InputError
from sanflow.runtime import Detector, available_engines, open_engine
from sanflow.runtime.bench import bench
from sanflow.runtime.infer import infer
from sanflow.runtime.parity import verify

from .conftest import MakeBundle, noise

CPU = ("onnxruntime", "openvino")


@pytest.fixture
def several(make_bundle: MakeBundle) -> Bundle:
    """A tensorrt bundle that prefers fp16; nothing is NG to its fp32, everything to its fp16."""
    made = make_bundle(target="tensorrt", precisions=("fp16", "fp32"))
    low, high = (Decision(t, None, t, t, 0.0, 9.0) for t in (0.0, 1e6))
    return with_decisions(made, [low, high])


def test_a_pc_without_a_gpu_reads_a_tensorrt_bundle(several: Bundle) -> None:
    assert set(CPU) <= set(available_engines("tensorrt"))
    for name in CPU:
        for precision, wanted in ((None, "fp16"), ("fp16", "fp16"), ("fp32", "fp32")):
            with open_engine(several, name, 1, precision=precision) as engine:
                assert engine.graph is several.manifest.graph(wanted)
    with pytest.raises(InputError, match="holds fp16, fp32"):
        open_engine(several, precision="int8")


def test_verdicts_are_by_the_decision_of_the_graph_that_ran(several: Bundle) -> None:
    for precision, verdict in ((None, "NG"), ("fp16", "NG"), ("fp32", "OK")):
        with Detector(several, threads=1, precision=precision) as detector:
            assert detector.judge(noise(1)[0]).verdict == verdict


def test_results_say_which_graph_judged(several: Bundle, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    imaging.write_png(parts / "a.png", noise(1)[0])
    middle = float(sorted(e.score for e in several.manifest.golden)[4])
    mild = Decision(middle, None, 0.0, 1e6, 0.0, 9.0)
    for precision in ("fp16", "fp32"):
        out = tmp_path / precision
        summary = infer(with_decisions(several, [mild, mild]), parts, out, precision=precision)
        line = json.loads((out / "results.jsonl").read_text())
        assert line["precision"] == summary.precision == precision
    report = bench(several, precision="fp32", runs=2, seconds=0.1, warmup=1, cold_starts=1)
    assert report.precision == "fp32"


def test_every_graph_is_verified_unless_one_is_named(make_bundle: MakeBundle) -> None:
    made = make_bundle(target="tensorrt", precisions=("fp16", "fp32"))
    report = verify(made)
    pairs = {(c.engine, c.precision) for c in report.comparisons}
    assert pairs >= {(e, p) for e in CPU for p in ("fp16", "fp32")}
    assert report.passed
    named = verify(made, "onnxruntime", precision="fp32")
    assert [(c.engine, c.precision) for c in named.comparisons] == [("onnxruntime", "fp32")]


def test_a_failure_names_the_graph(make_bundle: MakeBundle) -> None:
    made = make_bundle(target="tensorrt", precisions=("fp16", "fp32"), golden_shift=0.5)
    assert ", fp16, on golden: " in verify(made, "onnxruntime").text()


def test_a_threshold_is_moved_for_all_graphs_each_from_its_own_scores(
    make_bundle: MakeBundle,
) -> None:
    made = make_bundle(target="tensorrt", precisions=("fp16", "fp32"))
    run = CliRunner().invoke
    found = run(app, ["threshold", str(made.path), "--false-alarm-rate", "0.34", "--json"])
    assert found.exit_code == 0, found.output
    thresholds = [g.decision.threshold for g in Bundle.open(made.path).manifest.graphs]
    assert thresholds == pytest.approx([0.5, 1.5], rel=1e-3)
    assert json.loads(found.stdout)["value"] == thresholds[0]
    found = run(app, ["threshold", str(made.path), "--precision", "fp32", "--json"])
    assert json.loads(found.stdout)["value"] == thresholds[1]
    run(app, ["threshold", str(made.path), "--value", "0.8"])
    assert {g.decision.threshold for g in Bundle.open(made.path).manifest.graphs} == {0.8}
    bad = run(app, ["threshold", str(made.path), "--precision", "int8"])
    assert bad.exit_code == InputError.exit_code
