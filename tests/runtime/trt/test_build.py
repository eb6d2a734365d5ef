"""The builder's child process: what it says, how it can die, and two of them at once."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sanflow.errors import EngineError
from sanflow.runtime import open_engine
from sanflow.runtime.machine import child_environment
from sanflow.runtime.trt import build, child
from sanflow.runtime.trt.plan import build_plan

from ..conftest import network, noise
from .conftest import Trt
from .test_api import job

GRAPH = network().SerializeToString()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("parse", r"refuses the graph: node conv1 \(Conv\): Non-zero zero point"),
        ("empty", "the parsed graph has no tensors, the manifest says image uint8"),
        ("none", r"returned nothing and logged no error; before 10.12 .*--precision fp32"),
        ("tactic", "found no kernel for a part of the graph: mostly too little memory"),
        ("dequantize", "cannot type INT8 with FP16 scales.*use --precision fp16"),
        ("null_factory", "driver is absent, or older than this TensorRT needs"),
    ],
)
def test_what_the_builder_refuses_is_worded(
    standin: Any, tmp_path: Path, fault: str, said: str
) -> None:
    standin("10.3.0", fault)
    with pytest.raises(EngineError, match=said):
        child.build(job(tmp_path), b"", GRAPH, lambda event: None)
    assert not list(tmp_path.glob("plan*")) + list(tmp_path.glob("timings*"))


def test_a_child_builds_reports_and_chatters_without_harm(standin: Any, trt_bundle: Trt) -> None:
    bundle = trt_bundle()
    steps: list[tuple[str, int, int]] = []
    plan = build_plan(bundle, bundle.manifest.graph(), progress=lambda *step: steps.append(step))
    assert steps[0] == ("Building Engine", 0, 4)
    assert steps[-1] == ("Building Engine", 4, 4)
    assert plan.meta.warnings == ("a warning of the builder",)
    assert plan.meta.seconds > 0
    log = (plan.folder / "build.log").read_text()
    assert "native chatter" in log
    assert "warning: a warning of the builder" in log
    with open_engine(bundle, "tensorrt") as engine:
        engine.infer(noise(1))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("killed", r"killed \(SIGKILL\), which is what the system does when memory runs out.*MiB"),
        ("crash", r"crashed inside NVIDIA's builder \(SIGSEGV\).*last words: about to fail"),
        ("tactic", "found no kernel.*MiB were free, workspace 77 MiB"),
    ],
)
def test_a_child_that_dies_leaves_a_message_and_no_plan(
    standin: Any, trt_bundle: Trt, fault: str, said: str
) -> None:
    standin("10.3.0", fault)
    bundle = trt_bundle()
    with pytest.raises(EngineError, match=said):
        build_plan(bundle, bundle.manifest.graph(), workspace=77)
    cached = Path(os.environ["XDG_CACHE_HOME"]) / "sanflow" / "trt"
    assert {path.name for path in cached.glob("*/*")} == {".lock", "build.log"}


def test_a_plan_that_cannot_be_written_is_said_and_not_the_builders_last_line(
    standin: Any, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full: the plan cannot be written."""
    run, bundle = build.run, trt_bundle()

    def nowhere(job: child.Job, *rest: Any) -> build.Built:
        return run(dataclasses.replace(job, plan=f"{job.plan}/missing/plan"), *rest)

    monkeypatch.setattr(build, "run", nowhere)
    with pytest.raises(
        EngineError, match=r"/plan: cannot be written: No such file or directory \[.*MiB were free"
    ):
        build_plan(bundle, bundle.manifest.graph())


def test_a_module_that_is_missing_in_the_child_is_worded(
    standin: Any, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    bundle = trt_bundle()
    with pytest.raises(EngineError, match="Python package is not in this environment"):
        build_plan(bundle, bundle.manifest.graph())


def test_an_interrupt_ends_the_child_too(
    standin: Any, trt_bundle: Trt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    monkeypatch.setenv("STANDIN_HANGS", str(pid))
    standin("10.3.0", "hang")
    bundle = trt_bundle()

    def stop(phase: str, done: int, total: int) -> None:
        if done == total:
            while not (pid.exists() and pid.read_text()):
                time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(bundle, bundle.manifest.graph(), progress=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_of_two_builders_at_once_one_builds_and_the_other_waits(
    standin: Any, trt_bundle: Trt, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = trt_bundle()
    built: list[int] = []

    def build() -> None:
        def count(phase: str, done: int, total: int) -> None:
            if done == 0:
                built.append(1)
                time.sleep(0.5)

        build_plan(bundle, bundle.manifest.graph(), progress=count)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert "another process is building the same plan" in caplog.text


@pytest.mark.slow
def test_of_two_processes_at_once_one_builds(
    standin: Any, trt_bundle: Trt, fake_driver: Any
) -> None:
    code = (
        f"import ctypes; ctypes.CDLL({fake_driver.library._name!r}, ctypes.RTLD_GLOBAL)\n"
        "from sanflow.bundle import Bundle\n"
        "from sanflow.runtime.trt.plan import build_plan\n"
        f"bundle = Bundle.open({str(trt_bundle().path)!r})\n"
        "built = []\n"
        "build_plan(bundle, bundle.manifest.graph(), progress=lambda *step: built.append(step))\n"
        "print(bool(built))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=child_environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(said) == ["False", "False", "True"]
