"""The doctor tells what is wrong and what to do, and never fails itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sanflow.runtime import doctor as module
from sanflow.runtime.doctor import Check, DoctorReport, doctor

from .conftest import MakeBundle, network

QUICK = "print('1.0')"
"""Instead of importing torch, which takes seconds."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "openvino", "torch"):
        monkeypatch.setitem(module._PROBES, package, QUICK)


def check(report: DoctorReport, group: str, name: str) -> Check:
    (found,) = [c for c in report.checks if c.group == group and c.name.split()[0] == name]
    return found


def test_a_machine_with_engines_is_ready() -> None:
    seen: list[Check] = []
    report = doctor(progress=seen.append)
    assert report.exit_code == 0
    assert report.engines == ("onnxruntime", "openvino")
    assert tuple(seen) == report.checks
    assert check(report, "training", "PyTorch").status == "ok"
    tensorrt = check(report, "engine", "tensorrt")
    assert tensorrt.status == "missing"
    assert "sudo apt install python3-libnvinfer" in tensorrt.detail
    for name in ("system", "processor", "instructions", "memory"):
        assert check(report, "machine", name).detail


def test_the_real_probes_find_the_real_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = {name: module._engine(name) for name in ("onnxruntime", "openvino")}
    assert {c.status for c in found.values()} == {"ok"}
    assert "CPUExecutionProvider" in found["onnxruntime"].detail
    assert "on CPU" in found["openvino"].detail


def test_the_report_is_json_and_a_table(make_bundle: MakeBundle) -> None:
    report = doctor(make_bundle().path, threads=1)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert len(document["checks"]) == len(report.checks)
    assert document["exit_code"] == 0
    assert all(len(row) == 4 for row in report.rows())


@pytest.mark.parametrize(
    ("code", "status", "detail", "fix"),
    [
        ("import not_there_at_all", "missing", "No module named", "pip install"),
        ("raise ImportError('libfoo.so: no')", "failed", "libfoo.so: no", "--force-reinstall"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "failed", "SIGILL",
         "--force-reinstall"),
        ("import sys; sys.exit(3)", "failed", "exit code 3", "--force-reinstall"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, code: str, status: str, detail: str, fix: str
) -> None:
    monkeypatch.setitem(module._PROBES, "openvino", code)
    report = doctor()
    found = check(report, "engine", "openvino")
    assert found.status == status
    assert detail in found.detail
    assert fix in found.fix
    assert report.engines == ("onnxruntime",)
    assert report.exit_code == 0  # the other one does the work


def test_an_import_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.2)
    monkeypatch.setitem(module._PROBES, "torch", "import time; time.sleep(60)")
    assert module._training().detail == "not imported within 0.2 s"


def test_without_any_engine_there_is_a_command_and_a_code(
    monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    monkeypatch.setattr(module, "available_engines", lambda target: ())
    monkeypatch.setattr("sanflow.runtime.registry.installed", lambda package: False)
    report = doctor()
    assert report.exit_code == 5
    assert check(report, "engine", "onnxruntime").fix == 'pip install "sanflow[onnxruntime]"'
    report = doctor(bundle.path)
    assert report.exit_code == 5
    assert 'pip install "sanflow[onnxruntime]"' in check(report, "bundle", "engine").detail


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_good_bundle_is_replayed_on_every_engine_that_reads_it(
    make_bundle: MakeBundle, target: str
) -> None:
    report = doctor(make_bundle(target=target).path, threads=1)
    assert report.exit_code == 0
    names = [c.name for c in report.checks if c.group == "bundle"]
    engines = ("onnxruntime", "openvino") if target == "onnx" else ("openvino",)
    assert names == ["open", "tuning", *engines]
    assert "8 golden samples" in check(report, "bundle", "openvino").detail


def test_one_engine_can_be_asked_for(make_bundle: MakeBundle) -> None:
    report = doctor(make_bundle().path, engine="openvino", threads=1)
    assert [c.name for c in report.checks if c.group == "bundle"] == [
        "open",
        "tuning",
        "openvino",
    ]


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


def absent(make_bundle: MakeBundle) -> Path:
    return Path("no", "such", "bundle")


@pytest.mark.parametrize(
    ("make", "code", "name", "said"),
    [
        (altered, 4, "open", "altered or damaged"),
        (absent, 4, "open", "not a bundle folder"),
        (unloadable, 5, "onnxruntime", "Frobnicate"),
        (wrong, 6, "openvino", "golden samples: "),
    ],
)
def test_what_is_wrong_with_a_bundle(
    make_bundle: MakeBundle, make: Any, code: int, name: str, said: str
) -> None:
    report = doctor(make(make_bundle), threads=1)
    assert report.exit_code == code
    found = check(report, "bundle", name)
    assert found.status == "failed"
    assert said in found.detail


@pytest.mark.parametrize(
    ("options", "code"),
    [({"engine": "abacus"}, 2), ({"engine": "tensorrt"}, 5), ({"threads": 0}, 2)],
)
def test_a_wrong_option_is_reported_too(
    make_bundle: MakeBundle, options: dict[str, Any], code: int
) -> None:
    assert doctor(make_bundle().path, **options).exit_code == code


def test_a_surprise_is_reported_too(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(module, "replay_goldens", fail)
    report = doctor(make_bundle().path, threads=1)
    assert report.exit_code == 1
    assert check(report, "bundle", "openvino").detail == "unexpected ZeroDivisionError: odd"
