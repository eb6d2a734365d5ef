"""No doctor's test imports torch, or asks this machine about a GPU, unless it says so."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from sanflow.runtime import registry
from sanflow.runtime.doctor import gpu as gpu_checks
from sanflow.runtime.doctor import machine
from sanflow.runtime.doctor.probe import Answer
from sanflow.runtime.machine import child_code

from ..trt.conftest import fake_driver, gpu, standin, trt_bundle

__all__ = ["fake_driver", "gpu", "standin", "trt_bundle"]

Answers = dict[str, Answer]
Ask = Callable[..., Answer]

ORIN = {
    "name": "Orin",
    "sm": [8, 7],
    "driver": "12.6",
    "integrated": True,
    "free": 5 * 2**30,
    "total": 8 * 2**30,
    "package": "cuda-python 12.9.10",
}
NO_DRIVER = Answer("failed", "libcuda.so.1: cannot open shared object file: No such file")


def tensorrt(version: str, path: str) -> Answer:
    """What a child says of a TensorRT that works."""
    return Answer("ok", json.dumps({"version": version, "path": path}))


@pytest.fixture
def answers() -> Answers:
    """What the children say, by what they are asked: an ordinary PC, until a test changes it."""
    absent = Answer("failed", "cuda-python: not installed")
    return {
        "onnxruntime": Answer("ok", "1.0 with CPUExecutionProvider"),
        "openvino": Answer("ok", "1.0 on CPU"),
        "torch": Answer("ok", "1.0 on the processor"),
        "driver": NO_DRIVER,
        "gpu cuda-python": absent,
        "gpu pycuda": absent,
        "tensorrt tensorrt": tensorrt("10.3.0", "/x/tensorrt"),
        "tensorrt tensorrt-rtx": tensorrt("1.7", "/x/tensorrt_rtx"),
    }


@pytest.fixture(autouse=True)
def canned(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*words: str) -> Answer:
        if words[:3] == gpu_checks.LOOK:
            return answers[" ".join(words[3:])]
        names = {tuple(child_code(code)): name for name, code in machine._CODE.items()}
        return answers[names[words]]

    def no_gpu() -> str:
        return "" if answers["driver"].kind == "ok" else NO_DRIVER.text

    monkeypatch.setattr(registry, "no_gpu", no_gpu)
    for module in (gpu_checks, machine):
        monkeypatch.setattr(module, "ask", ask)
        monkeypatch.setattr(module, "jetson", lambda: None)


def with_gpu(answers: Answers, **changes: object) -> None:
    """A machine with a driver and a GPU that cuda-python reaches."""
    answers["driver"] = Answer("ok", json.dumps({"path": "/usr/lib/libcuda.so.1"}))
    answers["gpu cuda-python"] = Answer("ok", json.dumps({**ORIN, **changes}))
