"""The doctor tells what is wrong and what to do, and never fails itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from sanflow.cli import app
from sanflow.runtime import registry
from sanflow.runtime.doctor import Asked, Check, DoctorReport, bundle, doctor
from sanflow.runtime.doctor.probe import Answer

from ..conftest import MakeBundle, network
from .conftest import NO_DRIVER, Answers, tensorrt, with_gpu

ONE = Asked(threads=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "SECONDS", 0.02)


def check(report: DoctorReport, group: str, name: str) -> Check:
    (found,) = [c for c in report.checks if (c.group, c.name) == (group, name)]
    return found


def test_a_pc_without_a_gpu_is_told_what_is_missing() -> None:
    seen: list[Check] = []
    report = doctor(progress=seen.append)
    assert report.exit_code == 0
    assert seen == list(report.checks)
    assert report.engines == ("onnxruntime", "openvino")
    for name in ("system", "processor", "instructions", "memory"):
        assert check(report, "machine", name).detail
    driver = check(report, "gpu", "driver")
    assert driver.status == "missing"
    assert "no NVIDIA driver" in driver.detail
    assert NO_DRIVER.text in driver.detail
    assert [c.name for c in report.checks if c.group == "gpu"] == ["driver"]
    assert check(report, "engine", "tensorrt").status == "missing"


def test_tensorrt_without_a_driver_is_no_engine_that_works(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "installed", lambda package: True)
    report = doctor()
    assert "tensorrt" not in report.engines
    assert "no NVIDIA driver" in check(report, "engine", "tensorrt").detail
    with_gpu(answers)
    assert {"tensorrt", "tensorrt-rtx"} <= set(doctor().engines)


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("/usr/lib/python3.10/dist-packages/tensorrt", "the system's"),
        ("/home/me/venv/lib/python3.12/site-packages/tensorrt", "installed by pip"),
    ],
)
def test_where_tensorrt_came_from(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, path: str, origin: str
) -> None:
    monkeypatch.setattr(registry, "installed", lambda package: True)
    with_gpu(answers)
    answers["tensorrt tensorrt"] = tensorrt("10.3.0", path)
    detail = check(doctor(), "engine", "tensorrt").detail
    assert detail == f"10.3.0, {origin}, in {path}"


def test_a_tensorrt_that_makes_no_builder_is_no_engine_that_works(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "installed", lambda package: True)
    with_gpu(answers)
    answers["tensorrt tensorrt"] = Answer("failed", "the driver is older than this TensorRT needs")
    report = doctor()
    assert check(report, "engine", "tensorrt").status == "failed"
    assert "tensorrt" not in report.engines
    assert report.exit_code == 0  # a CPU does the work


def test_the_report_is_json_and_a_table(make_bundle: MakeBundle) -> None:
    report = doctor(make_bundle().path, asked=ONE)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert len(document["checks"]) == len(report.checks)
    assert document["exit_code"] == 0
    assert all(len(row) == 4 for row in report.rows())


@pytest.mark.parametrize(
    ("answer", "status", "detail", "fix"),
    [
        (Answer("absent", "No module named 'x'"), "missing", "No module named", "pip install"),
        (Answer("failed", "ImportError: libfoo.so"), "failed", "libfoo.so", "--force-reinstall"),
        (Answer("killed", "ended by SIGILL"), "failed", "SIGILL", "--force-reinstall"),
        (Answer("slow", "no answer"), "failed", "no answer", "try again"),
    ],
)
def test_an_engine_that_cannot_be_imported(
    answers: Answers, answer: Answer, status: str, detail: str, fix: str
) -> None:
    answers["openvino"] = answer
    report = doctor()
    found = check(report, "engine", "openvino")
    assert found.status == status
    assert detail in found.detail
    assert fix in found.fix
    assert report.engines == ("onnxruntime",)
    assert report.exit_code == 0  # the other one does the work


def test_without_any_engine_there_is_a_command_and_a_code(
    monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle
) -> None:
    made = make_bundle()
    monkeypatch.setattr(registry, "installed", lambda package: False)
    report = doctor()
    assert report.exit_code == 5
    assert 'pip install "sanflow[onnxruntime]"' in check(report, "engine", "onnxruntime").detail
    report = doctor(made.path)
    assert report.exit_code == 5
    assert 'pip install "sanflow[onnxruntime]"' in check(report, "bundle", "engine fp32").detail


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_good_bundle_is_replayed_and_timed_on_every_engine_that_reads_it(
    make_bundle: MakeBundle, target: str
) -> None:
    report = doctor(make_bundle(target=target).path, asked=ONE)
    assert report.exit_code == 0
    engines = ("onnxruntime", "openvino") if target == "onnx" else ("openvino",)
    wanted = [f"{name} fp32{what}" for name in engines for what in ("", " speed")]
    graphs = ["model.onnx"] if target == "onnx" else []
    names = [c.name for c in report.checks if c.group == "bundle"]
    assert names == ["open", *graphs, "tuning", *wanted]
    parity = check(report, "bundle", "openvino fp32").detail
    for words in ("8 golden samples", "score error", "map error", "0 flips"):
        assert words in parity
    assert "p50 " in check(report, "bundle", "openvino fp32 speed").detail


def test_one_engine_can_be_asked_for(make_bundle: MakeBundle) -> None:
    report = doctor(make_bundle().path, asked=Asked("openvino", threads=1))
    names = [c.name for c in report.checks if c.group == "bundle"]
    assert names == "open,model.onnx,tuning,openvino fp32,openvino fp32 speed".split(",")


def altered(make_bundle: MakeBundle) -> Path:
    bundle = make_bundle("altered")
    data = bytearray((bundle.path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / "model.onnx").write_bytes(data)
    return bundle.path


def unloadable(make_bundle: MakeBundle) -> Path:
    model = network()
    model.graph.node[4].op_type = "Frobnicate"
    return make_bundle("unloadable", graph=model).path


def wrong(make_bundle: MakeBundle) -> Path:
    return make_bundle("wrong", golden_shift=0.5).path


def not_finite(make_bundle: MakeBundle) -> Path:
    model = network()
    (weights,) = [t for t in model.graph.initializer if t.name == "w2"]
    values = numpy_helper.to_array(weights).copy()
    values[0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(values, "w2"))
    return make_bundle("not-finite", graph=model).path


def absent(make_bundle: MakeBundle) -> Path:
    return Path("no", "such", "bundle")


@pytest.mark.parametrize(
    ("make", "code", "name", "said"),
    [
        (altered, 4, "open", "altered or damaged"),
        (not_finite, 4, "model.onnx", "w2: not all of its values are finite"),
        (absent, 4, "open", "no such folder"),
        (unloadable, 5, "onnxruntime fp32", "Frobnicate"),
        (wrong, 6, "openvino fp32", "golden samples: "),
    ],
)
def test_what_is_wrong_with_a_bundle(
    make_bundle: MakeBundle, make: Any, code: int, name: str, said: str
) -> None:
    report = doctor(make(make_bundle), asked=ONE)
    assert report.exit_code == code
    found = check(report, "bundle", name)
    assert found.status == "failed"
    assert said in found.detail


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (Asked("abacus"), 2),
        (Asked("tensorrt"), 5),
        (Asked(threads=0), 2),
        (Asked(precision="fp8"), 2),
    ],
)
def test_a_wrong_option_is_reported_too(make_bundle: MakeBundle, asked: Asked, code: int) -> None:
    assert doctor(make_bundle().path, asked=asked).exit_code == code


def test_a_surprise_is_reported_too(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(bundle, "replay_goldens", fail)
    report = doctor(make_bundle().path, asked=ONE)
    assert report.exit_code == 1
    assert check(report, "bundle", "openvino fp32").detail == "unexpected ZeroDivisionError: odd"


def test_the_command_writes_the_report_for_somebody_else(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    file = tmp_path / "doctor.json"
    words = ["doctor", str(make_bundle().path), "--threads", "1", "--out", str(file)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    document = json.loads(file.read_text("utf-8"))
    assert "model.onnx" in [c["name"] for c in document["checks"] if c["group"] == "bundle"]
