"""Which engine opens a bundle where there is a GPU; ONNX Runtime on it; the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from typer.testing import CliRunner, Result

from sanflow import imaging
from sanflow.cli import app
from sanflow.errors import EngineError
from sanflow.runtime import available_engines, open_engine, registry
from sanflow.runtime.registry import open_graph
from sanflow.runtime.setting import Setting
from sanflow.runtime.tune import knobs, shapes
from sanflow.runtime.tuned import Tuned, this_device, write

from ..conftest import MakeBundle, network, noise
from .conftest import FakeCuda, Trt


def sanflow(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_where_a_gpu_answers_a_tensorrt_bundle_is_for_it(
    standin: Any, in_process: Any, trt_bundle: Trt
) -> None:
    bundle = trt_bundle()
    assert available_engines("tensorrt")[:3] == ("onnxruntime", "openvino", "tensorrt")
    with open_engine(bundle) as engine:
        assert engine.name == "tensorrt"
        assert engine.threads == 1
    with open_engine(bundle, "onnxruntime") as engine:  # asked for by name
        assert engine.name == "onnxruntime"


def test_where_a_gpu_answers_the_cpu_does_not_step_in(
    gpu: FakeCuda, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "installed", lambda package: "tensorrt" not in package)
    with pytest.raises(EngineError, match=r"no engine for this tensorrt bundle: tensorrt: .*apt"):
        open_engine(trt_bundle())


def test_without_a_gpu_the_cpu_verifies_it(
    fake_driver: FakeCuda, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKECUDA", raising=False)
    bundle = trt_bundle()
    with open_engine(bundle) as engine:
        assert engine.name == "onnxruntime"
    with pytest.raises(EngineError, match="tensorrt-rtx: the driver sees no GPU"):
        open_engine(bundle, "tensorrt-rtx")


@pytest.mark.parametrize("then", ["0", "1"])
def test_a_tuning_holds_for_the_gpu_it_was_made_with(
    standin: Any, in_process: Any, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Tuned while no GPU answered, or another module of the same family, whose name is the same."""
    bundle = trt_bundle()
    monkeypatch.setenv("FAKECUDA", then)
    quick = Setting("onnxruntime", 1) if then == "0" else Setting("tensorrt", 2, in_flight=2)
    write(bundle, Tuned("sanflow.tune/1", this_device("tensorrt"), "latency", quick, 1.5))
    with open_engine(bundle) as engine:
        assert (engine.name, engine.in_flight) == (quick.engine, quick.in_flight)
    monkeypatch.setenv("FAKECUDA", "1")
    monkeypatch.setenv("FAKECUDA_MULTIPROCESSORS", "16")
    with open_engine(bundle) as engine:
        assert (engine.name, engine.in_flight) == ("tensorrt", 1)


# ONNX Runtime's CUDA provider --------------------------------------------------------------


def test_onnx_runtime_for_the_cpu_is_not_onnx_runtime_for_cuda(
    gpu: FakeCuda, make_bundle: MakeBundle
) -> None:
    with pytest.raises(EngineError, match=r'pip install "sanflow\[onnxruntime-cuda\]"'):
        open_engine(make_bundle(), "onnxruntime-cuda")
    with pytest.raises(EngineError, match="pip uninstall onnxruntime"):
        open_graph({"model.onnx": network().SerializeToString()}, Setting("onnxruntime-cuda", 1))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_that_falls_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself only warns and computes on."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(EngineError, match="would compute with CPUExecutionProvider"):
        open_graph({"model.onnx": network().SerializeToString()}, Setting("onnxruntime-cuda", 1))


def test_tuning_knows_what_a_gpu_engine_can_change() -> None:
    assert shapes("tensorrt", "latency") == [Setting("tensorrt", 1)]
    assert [s.in_flight for s in shapes("tensorrt", "throughput")] == [1, 2, 3]
    assert knobs(Setting("tensorrt", 1)) == [{"cuda_graphs": False}]
    assert knobs(Setting("onnxruntime-cuda", 1)) == []


# The commands ------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    for index, image in enumerate(noise(3)):
        imaging.write_png(folder / f"{index}.png", image)
    return folder


def test_build_then_infer(
    standin: Any,
    trt_bundle: Trt,
    parts: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a real child process; the plan that `build` made is the one that `infer` uses."""
    bundle = trt_bundle("int8", "fp16", "fp32").path
    done = sanflow("build", bundle, "--precision", "fp16")
    assert done.exit_code == 0, done.output
    for text in (
        "fp16",
        "tensorrt 10.3.0, TF32",
        "Fake Orin, SM 8.7",
        "8 golden samples",
        "0 flips",
    ):
        assert text in done.stdout
    assert "building model.fp16.onnx for Fake Orin" in caplog.text
    caplog.clear()
    done = sanflow(
        *("infer", bundle, "--source", parts, "--out", tmp_path / "out", "--precision", "fp16"),
        *("--cuda-backend", "cuda-python"),
    )
    assert done.exit_code == 0, done.output
    assert "building" not in caplog.text
    records = [json.loads(x) for x in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {(r["engine"], r["precision"]) for r in records} == {("tensorrt 10.3.0", "fp16")}


def test_build_with_fallback_says_so(
    standin: Any, in_process: Any, trt_bundle: Trt, parts: Path, tmp_path: Path
) -> None:
    standin("11.4.0", "build_fp16")
    bundle = trt_bundle("fp16", "fp32").path
    done = sanflow("build", bundle)
    assert done.exit_code == 5
    assert "found no kernel" in done.stderr
    assert "Traceback" not in done.stderr
    done = sanflow("build", bundle, "--allow-fallback", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert (report["asked"], report["precision"]) == ("fp16", "fp32")
    assert report["note"].startswith("fp32 instead of fp16")
    out = tmp_path / "out"
    done = sanflow("infer", bundle, "--source", parts, "--out", out, "--allow-fallback")
    assert done.exit_code == 0, done.output
    first = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    assert first["precision"] == "fp32"
    assert "fp32 instead of fp16" in first["engine"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--engine", "openvino"], 2, "tensorrt"),
        (["--cuda-backend", "cupy"], 2, "cuda-python"),
        (["--precision", "int8"], 2, "this bundle holds fp32"),
        (["--workspace", "1"], 2, "16"),
    ],
)
def test_what_cannot_be_asked(
    standin: Any, trt_bundle: Trt, words: list[str], code: int, said: str
) -> None:
    done = sanflow("build", trt_bundle().path, *words)
    assert done.exit_code == code
    assert said in done.stderr


def test_a_bundle_for_another_target_needs_no_plan(make_bundle: MakeBundle) -> None:
    done = sanflow("build", make_bundle().path)
    assert done.exit_code == 2
    assert "needs no plan; export the run with --target tensorrt" in done.stderr


def test_build_without_anything_says_what_to_install(
    trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKECUDA", raising=False)
    monkeypatch.setattr(registry, "installed", lambda package: False)
    done = sanflow("build", trt_bundle().path)
    assert done.exit_code == 5
    assert "sudo apt install python3-libnvinfer" in done.stderr
