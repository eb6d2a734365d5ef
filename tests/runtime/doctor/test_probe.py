"""However a child ends, there is an answer; and the real ones find what is really here."""

from __future__ import annotations

import ctypes.util
import json
import sys
from pathlib import Path

import pytest

from sanflow.runtime.doctor import gpu, machine, probe
from sanflow.runtime.doctor.gpu import LOOK
from sanflow.runtime.doctor.probe import Answer, ask
from sanflow.runtime.machine import child_code, child_environment

from ..trt.conftest import FakeCuda


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("print(1); print('two')", "ok", "two"),
        ("", "ok", "it said nothing"),
        ("import not_there_at_all", "absent", "No module named 'not_there_at_all'"),
        ("raise ImportError('libfoo.so: no')", "failed", "ImportError: libfoo.so: no"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "killed", "ended by SIGILL"),
        ("import os; os.kill(os.getpid(), 40)", "killed", "ended by signal 40"),
        ("import sys; sys.exit(3)", "failed", "exit code 3"),
    ],
)
def test_how_a_child_may_end(code: str, kind: str, text: str) -> None:
    assert ask(sys.executable, "-S", "-c", code) == Answer(kind, text)  # type: ignore[arg-type]


def test_a_child_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.2)
    assert ask(sys.executable, "-S", "-c", "import time; time.sleep(60)").kind == "slow"


def test_a_machine_that_starts_no_child() -> None:
    assert "no child process" in ask("/no/such/python", "-c", "").text


def test_a_child_runs_nothing_of_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python 3.10 starts it, which knows no PYTHONSAFEPATH."""
    for name in ("json", "onnxruntime", "sanflow"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')")
    environment = {k: v for k, v in child_environment().items() if k != "PYTHONSAFEPATH"}
    monkeypatch.setattr(probe, "child_environment", lambda: environment)
    monkeypatch.chdir(tmp_path)
    for module in (gpu, machine):
        monkeypatch.setattr(module, "ask", ask)
    found = [check.detail for check in [*machine.engines(), *gpu.checks()]]
    assert "CPUExecutionProvider" in " ".join(found)
    assert "hijacked" not in " ".join(found)


@pytest.mark.parametrize(
    ("package", "words"), [("onnxruntime", "CPUExecutionProvider"), ("openvino", "on CPU")]
)
def test_the_real_packages(package: str, words: str) -> None:
    assert words in ask(*child_code(machine._CODE[package])).text


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a driver here")
def test_no_driver_is_said_by_whoever_looks_for_it() -> None:
    pytest.importorskip("cuda.bindings")
    assert "libcuda.so.1" in ask(*LOOK, "driver").text
    answer = ask(*LOOK, "gpu", "cuda-python")
    assert answer.kind == "failed"
    assert "no NVIDIA driver" in answer.text


def test_the_real_binding_over_a_driver_in_host_memory(
    fake_driver: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings")
    library = fake_driver.library._name
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(library).parent))
    monkeypatch.setenv("FAKECUDA", "1")
    monkeypatch.setenv("FAKECUDA_INTEGRATED", "1")
    assert json.loads(ask(*LOOK, "driver").text) == {"path": library}
    seen = json.loads(ask(*LOOK, "gpu", "cuda-python").text)
    assert (seen["sm"], seen["integrated"]) == ([8, 7], True)
    assert seen["name"]
    assert 0 < seen["free"] <= seen["total"]
    monkeypatch.setenv("FAKECUDA", "0")
    assert "sees no GPU" in ask(*LOOK, "gpu", "cuda-python").text


@pytest.mark.trt_builder
def test_nvidias_own_module_is_looked_at() -> None:
    pytest.importorskip("tensorrt_rtx")
    seen = json.loads(ask(*LOOK, "tensorrt", "tensorrt-rtx").text)
    assert seen["version"]
    assert seen["path"].endswith("tensorrt_rtx")
