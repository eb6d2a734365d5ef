"""Importing the runtime is quick and brings nothing that an inspection PC does not need."""

from __future__ import annotations

import json
import subprocess
import sys

from sanflow.runtime.machine import child_environment

CODE = """
import json, sys, time
begin = time.process_time()
import sanflow.runtime
seconds = time.process_time() - begin
import sanflow.runtime.infer, sanflow.runtime.bench, sanflow.runtime.doctor
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "openvino", "scipy", "sklearn",
         "matplotlib", "pandas", "jinja2", "safetensors", "PIL",
         "tensorrt", "tensorrt_rtx", "cuda", "pycuda", "filelock"}  # fmt: skip


def fresh() -> tuple[float, set[str]]:
    """Seconds of processor time for the import, and the packages that are there afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seconds, names = json.loads(done.stdout)
    return seconds, set(names)


def test_it_takes_less_than_three_tenths_of_a_second() -> None:
    """Processor time, the best of three: other work on the machine does not count."""
    assert min(fresh()[0] for _ in range(3)) < 0.3


def test_nothing_heavy_comes_with_it() -> None:
    _, names = fresh()
    assert not names & HEAVY
    assert {"numpy", "cv2"} <= names
