"""Our code uses only names that every supported TensorRT has; the real builder accepts it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from sanflow.errors import EngineError
from sanflow.runtime import open_engine
from sanflow.runtime.engine import TensorSpec
from sanflow.runtime.trt import api as module
from sanflow.runtime.trt import child
from sanflow.runtime.trt.api import Recipe
from sanflow.runtime.trt.cuda import Device

from ..conftest import HEIGHT, WIDTH, network
from .api_check import SURFACE, problems
from .conftest import SITE, VERSIONS, FakeCuda, Trt

TENSORS = (
    TensorSpec("image", "uint8", (1, HEIGHT, WIDTH, 3)),
    TensorSpec("score", "float32", (1,)),
    TensorSpec("map", "float32", (1, HEIGHT, WIDTH)),
)
ORIN = Device("Orin", (8, 7), 8, "12.6", True, 2**32, 2**33, "none")


def job(folder: Path, **changes: Any) -> child.Job:
    fields: dict[str, Any] = {
        "product": "tensorrt",
        "recipe": Recipe(tf32=False),
        "workspace": 2**26,
        "tensors": TENSORS,
        "plan": str(folder / "plan"),
        "timings": str(folder / "timings"),
        "timing_bytes": 0,
    }
    return child.Job(**{**fields, **changes})


def test_every_name_exists_in_every_supported_version(repository: Path) -> None:
    files = sorted((repository / "sanflow" / "runtime" / "trt").glob("*.py"))
    files += [path for path in [repository / "sanflow" / "export" / "nvidia.py"] if path.exists()]
    assert len(files) > 10
    assert {path.name: found for path in files if (found := problems(path.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "config.set_flag(trt.BuilderFlag.FP16)",
        "config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)",
        "flag = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "config.int8_calibrator = None",
        "config.max_workspace_size = 1",
        "engine.num_bindings",
        "engine.device_memory_size",
        "context.execute_async_v2([], 0)",
        "builder.platform_has_fast_fp16",
        "builder.build_engine(network, config)",
        "parser.supports_model(b'')",
        "trt.BuilderFlag.STRICT_NANS",
        "self._runtime.deserialize_engine(b'')",
        "self.trt.Bilder",
    ],
)  # fmt: skip
def test_a_name_that_some_version_lacks_is_found(line: str) -> None:
    (found,) = problems(line)
    assert "missing in" in found


def test_an_optional_name_may_be_asked_for() -> None:
    assert not problems(
        'if hasattr(trt.BuilderFlag, "STRICT_NANS"):\n'
        "    config.set_flag(trt.BuilderFlag.STRICT_NANS)"
    )


def test_the_stand_in_has_exactly_the_names_of_each_version(standin: Any) -> None:
    for version in VERSIONS:
        standin(version)
        trt = module.load("tensorrt").trt
        assert trt.__version__ == version
        for name, own in SURFACE[version]["classes"].items():
            played = getattr(trt, name, None)
            for member in own.get("enum", {}):
                assert hasattr(played, member)
            if played is not None and "enum" in own:
                assert set(played.__members__) == set(own["enum"])
    assert not hasattr(trt.Builder, "platform_has_fast_fp16")
    with pytest.raises(AttributeError, match="max_workspace_size"):
        trt.IBuilderConfig().max_workspace_size = 1
    with pytest.raises(NotImplementedError, match="not played"):
        trt.IBuilderConfig().reset()


@pytest.mark.parametrize("version", VERSIONS)
def test_flags_are_those_of_the_version(standin: Any, version: str, tmp_path: Path) -> None:
    standin(version)
    graph = network().SerializeToString()
    child.build(job(tmp_path, recipe=Recipe(tf32=True)), b"", graph, lambda event: None)
    head = (tmp_path / "plan").read_bytes().split(b"\n")[0]
    assert b'"tf32": true' in head
    assert (b'"strict": true' in head) == (version != "10.3.0")


def test_a_module_that_is_missing_too_old_or_broken(
    monkeypatch: pytest.MonkeyPatch, standin: Any, tmp_path: Path
) -> None:
    old = types.ModuleType("tensorrt")
    old.__version__ = "8.6.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(EngineError, match=r"8\.6\.1 is too old, expected 10\.3"):
        module.load("tensorrt")
    monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    with pytest.raises(EngineError, match=r"JetPack 6\.1"):
        module.load("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")
    without = [path for path in sys.path if path != str(SITE)]
    monkeypatch.setattr(sys, "path", without)
    with pytest.raises(EngineError, match="not in this environment"):
        module.load("tensorrt")
    (tmp_path / "tensorrt.py").write_text(
        'raise ImportError("libnvinfer.so.10: cannot open shared object file: No such file")'
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *without])
    with pytest.raises(EngineError, match="not of one JetPack or one installation"):
        module.load("tensorrt")


def test_a_version_without_kernels_for_the_gpu_is_refused_at_once(standin: Any) -> None:
    loaded = module.load("tensorrt")
    loaded.check_device(ORIN)
    lacking = module.Api("tensorrt", loaded.trt, "10.13.3.9")
    with pytest.raises(EngineError, match=r"10\.13\.3\.9: .*no code for this GPU"):
        lacking.check_device(ORIN)


# NVIDIA's own parser and builder ------------------------------------------------------------


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")


@pytest.mark.trt_builder
@pytest.mark.parametrize("sm", ["", "75", "89"])
def test_our_builder_code_runs_with_nvidias_builder(rtx: Any, tmp_path: Path, sm: str) -> None:
    events: list[dict[str, Any]] = []
    built = job(tmp_path, product="tensorrt-rtx", sm=sm)
    child.build(built, b"", network().SerializeToString(), events.append)
    assert (tmp_path / "plan").stat().st_size > 1000
    assert "built" in events[-1]
    assert {"phase", "done", "total"} <= {key for event in events for key in event}


@pytest.mark.trt_builder
def test_nvidias_parser_names_the_node_it_refuses(rtx: Any, tmp_path: Path) -> None:
    model = network()
    model.graph.node[7].attribute.append(helper.make_attribute("group", 7))
    with pytest.raises(EngineError, match="node conv3"):
        child.build(
            job(tmp_path, product="tensorrt-rtx"), b"", model.SerializeToString(), lambda e: None
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.trt_builder
def test_a_graph_with_other_ends_than_the_manifests_is_refused(rtx: Any, tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(network())
    model.graph.output[0].name = model.graph.node[-1].output[0] = "points"
    with pytest.raises(EngineError, match=r"points float32.*manifest says.*score float32"):
        child.build(
            job(tmp_path, product="tensorrt-rtx"), b"", model.SerializeToString(), lambda e: None
        )


@pytest.mark.trt_builder
def test_rtx_refuses_a_gpu_it_has_no_code_for(rtx: Any) -> None:
    loaded = module.load("tensorrt-rtx")
    with pytest.raises(EngineError, match=r"no code for Orin \(SM 87\), only for SM 75"):
        loaded.check_device(ORIN)
    loaded.check_device(Device("RTX 4090", (8, 9), 128, "13.0", False, 1, 1, "none"))


@pytest.mark.trt_builder
@pytest.mark.slow
def test_nvidias_runtime_on_a_driver_it_cannot_use(
    rtx: Any, gpu: FakeCuda, trt_bundle: Trt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its builder makes a plan with no GPU; its runtime finds the fake driver too old, and says so.

    This is as far as NVIDIA's own code gets without a GPU: import, build, deserialise.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKECUDA_SM", "89")
    with pytest.raises(EngineError, match="does not load the plan: the NVIDIA driver is absent"):
        open_engine(trt_bundle(), "tensorrt-rtx")


def test_dtypes_are_named_as_numpy_does(standin: Any) -> None:
    loaded = module.load("tensorrt")
    for kind in loaded.trt.DataType:
        name = loaded.dtype(kind)
        assert name == kind.name or np.dtype(name).name == name
