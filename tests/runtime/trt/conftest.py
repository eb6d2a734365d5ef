"""A GPU made of host memory (fakecuda.c) and a TensorRT that computes with ONNX Runtime (site/)."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sanflow.bundle import Bundle
from sanflow.runtime.setting import Setting
from sanflow.runtime.trt import build, child

from ..conftest import MakeBundle, network

HERE = Path(__file__).parent
SITE = HERE / "site"
KINDS = ("device memory", "host memory", "streams", "graphs", "execs", "contexts")
VERSIONS = ("10.3.0", "10.16.1", "11.4.0")


@dataclass(frozen=True)
class FakeCuda:
    """The fake driver, and what it counted."""

    library: Any

    def live(self) -> dict[str, int]:
        """What is allocated and not given back, by kind; nothing of it is left out."""
        counts = {kind: self.library.fakecuda_live(i) for i, kind in enumerate(KINDS)}
        return {kind: count for kind, count in counts.items() if count}

    @property
    def misuse(self) -> int:
        """Calls that a real driver answers with an error or a crash."""
        return int(self.library.fakecuda_misuse())


_LOADED: list[FakeCuda] = []
"""One per process, as a CUDA package keeps the first it finds; a session's fixture is made
once for every folder that takes it over."""


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> FakeCuda:
    """fakecuda.c, compiled and loaded under the name by which every package looks for CUDA."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the fake driver needs Linux and a C compiler")
    if ctypes.util.find_library("cuda"):
        pytest.skip("a real NVIDIA driver is here, which the fake one would push aside")
    if _LOADED:
        return _LOADED[0]
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    command = [compiler, "-O1", "-Wall", "-Wno-unused-parameter", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libcuda.so.1", "-o", str(library), str(HERE / "fakecuda.c")]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    loaded.fakecuda_live.restype = ctypes.c_long
    loaded.fakecuda_misuse.restype = ctypes.c_long
    _LOADED.append(FakeCuda(loaded))
    return _LOADED[0]


@pytest.fixture
def gpu(fake_driver: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A GPU that answers; at the end nothing may be left on it, nor was it ever misused."""
    monkeypatch.setenv("FAKECUDA", "1")
    before, misused = fake_driver.live(), fake_driver.misuse
    yield fake_driver
    after = fake_driver.live()
    if "pycuda.driver" in sys.modules:  # it retains the primary context once and keeps it
        after.pop("contexts", None)
        before.pop("contexts", None)
    assert after == before
    assert fake_driver.misuse == misused


@pytest.fixture
def standin(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts the stand-in `tensorrt` of a version, and its faults, before this and child processes.

    Plans are cached in a folder of the test's own.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(SITE))
    paths = [str(SITE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    def play(version: str = "10.3.0", *faults: str) -> None:
        monkeypatch.setenv("STANDIN_VERSION", version)
        monkeypatch.setenv("STANDIN_FAULT", ",".join(faults))
        sys.modules.pop("tensorrt", None)

    play()
    yield play
    sys.modules.pop("tensorrt", None)


@pytest.fixture(params=["cuda-python", "pycuda"])
def cuda_choice(request: pytest.FixtureRequest) -> str:
    """Each Python package for CUDA; pycuda only where it could be built."""
    if request.param == "pycuda":
        # Built against all of CUDA, of which the fake driver has the part that is used.
        flags = sys.getdlopenflags()
        sys.setdlopenflags(os.RTLD_LAZY)
        try:
            pytest.importorskip("pycuda.driver", reason="pip install pycuda", exc_type=ImportError)
        finally:
            sys.setdlopenflags(flags)
    return str(request.param)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[child.Job]:
    """Builds happen in this process, which is quicker; the jobs that were built."""
    jobs: list[child.Job] = []

    def run(job: child.Job, timings: bytes, graph: bytes, log: Path, progress: Any) -> build.Built:
        jobs.append(job)
        built = build.Built()
        child.build(job, timings, graph, lambda event: None)
        return built

    monkeypatch.setattr(build, "run", run)
    return jobs


Trt = Callable[..., Bundle]


@pytest.fixture
def trt_bundle(make_bundle: MakeBundle) -> Trt:
    """A tensorrt bundle; its graphs below FP32 are marked for the stand-in's faults."""

    def make(*precisions: str, **changes: Any) -> Bundle:
        batch = changes.pop("batch", 1)
        models = {}
        for precision in precisions or ("fp32",):
            models[precision] = network(batch)
            models[precision].graph.name = f"sanflow.{precision}"
        return make_bundle(
            target="tensorrt", batch=batch, precisions=tuple(models), models=models, **changes
        )

    return make


def setting(**changes: Any) -> Setting:
    """The setting of one inference at a time with TensorRT."""
    return Setting(**{"engine": "tensorrt", "threads": 1, **changes})
