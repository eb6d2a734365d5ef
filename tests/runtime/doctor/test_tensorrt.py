"""A tensorrt bundle on a device: its plan, its parity, its speed; and every failure in words."""

from __future__ import annotations

from typing import Any

import pytest

from sanflow.bundle import Bundle
from sanflow.runtime.doctor import Asked, Check, DoctorReport, bundle, doctor

from ..conftest import MakeBundle
from ..trt.conftest import Trt
from .conftest import Answers, with_gpu

ASKED = Asked("tensorrt")


@pytest.fixture(autouse=True)
def device(answers: Answers, monkeypatch: pytest.MonkeyPatch, standin: Any) -> Any:
    """A machine whose GPU and TensorRT are the stand-ins."""
    pytest.importorskip("cuda.bindings")
    with_gpu(answers)
    monkeypatch.setattr(bundle, "SECONDS", 0.05)
    return standin


def of_bundle(report: DoctorReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks if check.group == "bundle"}


def examine(given: Bundle) -> tuple[dict[str, Check], int]:
    report = doctor(given.path, asked=ASKED)
    return of_bundle(report), report.exit_code


def test_every_graph_is_built_proven_and_timed(trt_bundle: Trt) -> None:
    given = trt_bundle("fp16", "fp32")
    found, code = examine(given)
    assert code == 0, found
    assert {"model.fp16.onnx", "model.fp32.onnx"} <= found.keys()
    for precision in ("fp16", "fp32"):
        assert "built now in" in found[f"tensorrt {precision} plan"].detail
        assert "0 flips" in found[f"tensorrt {precision}"].detail
        speed = found[f"tensorrt {precision} speed"].detail
        assert "CUDA graph p50" in speed
        assert "plain launches p50" in speed
    found, _ = examine(given)
    assert "built 20" in found["tensorrt fp16 plan"].detail  # when, not now
    assert "2 in " in next(c for c in doctor().checks if c.name == "plans").detail


def test_one_precision_can_be_asked_for(trt_bundle: Trt) -> None:
    report = doctor(trt_bundle("fp16", "fp32").path, asked=Asked("tensorrt", "fp32"))
    assert not [name for name in of_bundle(report) if "fp16" in name]


def test_a_bundle_for_another_engine_gets_no_plan(make_bundle: MakeBundle) -> None:
    found, code = examine(make_bundle())
    assert code == 5
    assert "does not read an onnx bundle" in found["tensorrt fp32"].detail
    assert "tensorrt fp32 plan" not in found


def test_without_a_cuda_graph_the_reason_is_told(device: Any, trt_bundle: Trt) -> None:
    device("10.3.0", "capturing")
    found, code = examine(trt_bundle())
    assert code == 0
    speed = found["tensorrt fp32 speed"].detail
    assert "cannot be recorded as a CUDA graph" in speed
    assert "plain launches p50" not in speed


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("null_factory", 5, "driver is absent, or older than this TensorRT needs"),
        ("parse", 5, "the parser refuses the graph"),
        ("none", 5, "model.fp32.onnx"),
        ("tactic", 5, "mostly too little memory"),
        ("dequantize", 5, "use --precision fp16"),
        ("killed", 5, "killed (SIGKILL)"),
        ("deserialize", 5, "made by another TensorRT or for another GPU"),
        ("no_context", 5, "memory is not enough"),
        ("nan", 6, "golden samples"),
    ],
)
def test_a_failure_is_in_the_report_in_words(
    device: Any,
    trt_bundle: Trt,
    fault: str,
    code: int,
    words: str,
) -> None:
    device("10.3.0", fault)
    found, exit_code = examine(trt_bundle())
    assert exit_code == code
    (failed,) = [check for check in found.values() if check.status == "failed"]
    assert failed.name == "tensorrt fp32"
    assert words in failed.detail
