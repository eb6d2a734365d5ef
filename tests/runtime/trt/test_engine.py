"""The run path over the fake driver: the bits of ONNX Runtime, and nothing left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow.bundle import Bundle
from sanflow.errors import EngineError, InputError
from sanflow.runtime import Detector, open_engine
from sanflow.runtime.engine import Output
from sanflow.runtime.registry import open_graph
from sanflow.runtime.setting import Gpu, Setting
from sanflow.runtime.trt.engine import TrtEngine

from ..conftest import network, noise, overtaken
from .conftest import VERSIONS, FakeCuda, Trt, setting


def expected(images: NDArray[np.uint8]) -> list[bytes]:
    """ONNX Runtime's bits of each image."""
    graph = {"model.onnx": network(len(images)).SerializeToString()}
    with open_graph(graph, Setting("onnxruntime", 1)) as plain:
        return bits(plain.infer(images))


def bits(output: Output) -> list[bytes]:
    return [s.tobytes() + m.tobytes() for s, m in zip(output.score, output.map, strict=True)]


@pytest.fixture
def ready(
    standin: Any,
    in_process: Any,
    trt_bundle: Trt,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A bundle; its plan is built by whoever opens it first."""
    return trt_bundle()


@pytest.mark.parametrize("version", VERSIONS)
def test_bits_are_those_of_onnx_runtime(
    standin: Any, in_process: Any, trt_bundle: Trt, version: str
) -> None:
    standin(version)
    images = noise(3)
    with open_engine(trt_bundle(batch=3), "tensorrt") as engine:
        assert engine.version == version
        assert bits(engine.infer(images)) == expected(images)
        assert bits(engine.infer(images[::-1])) == expected(images[::-1])


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
def test_bits_are_the_same_with_every_package_and_kind_of_memory(
    ready: Bundle, monkeypatch: pytest.MonkeyPatch, cuda_choice: Any, integrated: bool, graphs: bool
) -> None:
    monkeypatch.setenv("FAKECUDA_INTEGRATED", str(int(integrated)))
    asked = setting(gpu=Gpu(cuda_choice), cuda_graphs=graphs)
    images = noise(2)
    with open_engine(ready, setting=asked) as engine:
        assert isinstance(engine, TrtEngine)
        for image in images:
            assert bits(engine.infer(image[None])) == expected(image[None])
        plain = engine.plain_launches
    if not graphs:
        assert plain == "asked for"
    elif cuda_choice == "pycuda":
        assert "pycuda" in plain
    else:
        assert plain == ""


def test_shared_memory_is_not_copied(
    ready: Bundle, gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(ready, "tensorrt"):
        assert gpu.live()["device memory"] == 3
    monkeypatch.setenv("FAKECUDA_INTEGRATED", "1")
    with open_engine(ready, "tensorrt"):
        assert "device memory" not in gpu.live()
        assert gpu.live()["host memory"] == 3


@pytest.mark.parametrize("fault", ["capturing", "driver"])
def test_without_a_graph_launches_are_plain_and_right(
    ready: Bundle, standin: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "driver":
        monkeypatch.setenv("FAKECUDA_NOCAPTURE", "1")
    else:
        standin("10.3.0", fault)
    images = noise(1)
    with open_engine(ready, "tensorrt") as engine:
        assert isinstance(engine, TrtEngine)
        assert engine.plain_launches
        assert bits(engine.infer(images)) == expected(images)


def test_results_belong_to_the_caller(ready: Bundle) -> None:
    images = noise(2)
    with open_engine(ready, "tensorrt") as engine:
        first = engine.infer(images[:1])
        kept = bits(first)
        engine.infer(images[1:])
        assert bits(first) == kept
        first.map[:] = 7
        assert bits(engine.infer(images[:1])) == kept


def test_workers_have_contexts_of_their_own(ready: Bundle, gpu: FakeCuda) -> None:
    images = noise(8)
    wanted = [expected(image[None]) for image in images]
    with open_engine(ready, setting=setting(threads=3, in_flight=3)) as engine:
        assert gpu.live()["streams"] == 3
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda image: bits(engine.infer(image[None])), [*images] * 5))
    assert found == wanted * 5


def test_closing_waits_for_a_running_inference(
    ready: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(ready, "tensorrt")
    assert isinstance(engine, TrtEngine)
    slot = engine._slots.get()  # somebody is computing
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    engine._slots.put(slot)
    closing.join(10)
    assert not closing.is_alive()


def test_whoever_a_close_overtakes_is_told_and_does_not_wait(
    ready: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = overtaken(open_engine(ready, "tensorrt"), noise(1), monkeypatch)
    assert len(said) == 3
    assert all("closed; open the bundle again" in words for words in said)


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_engines_leave_nothing_however_many(
    ready: Bundle, gpu: FakeCuda, cuda_choice: Any, count: int
) -> None:
    from sanflow.runtime.trt.plan import build_plan, open_plan

    graph = ready.manifest.graph()
    plan = build_plan(ready, graph)
    images = noise(1)
    wanted = expected(images)
    for _ in range(count):
        with open_plan(plan, graph, ready, cuda_backend=cuda_choice) as engine:
            assert bits(engine.infer(images)) == wanted
    assert not {kind: n for kind, n in gpu.live().items() if kind != "contexts"}


def test_wrong_input_and_a_closed_engine(ready: Bundle) -> None:
    with (
        open_engine(ready, "tensorrt") as engine,
        pytest.raises(InputError, match="given float32"),
    ):
        engine.infer(np.zeros((1, 24, 20, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="closed"):
        engine.infer(noise(1))


def test_an_output_that_is_not_finite_is_no_decision(ready: Bundle, standin: Any) -> None:
    with Detector(ready, "tensorrt") as detector:
        standin("10.3.0", "nan")
        found = detector.judge(noise(1)[0])
    assert found.verdict == "NO-DECISION"
    assert found.reason == "bad_score"


# What fails while running ----------------------------------------------------------------


def test_a_start_that_is_refused_is_no_decision(
    ready: Bundle, standin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Detector(ready, open_engine(ready, setting=setting(cuda_graphs=False))) as detector,
        detector.engine,
    ):
        standin("10.3.0", "enqueue")
        found = detector.judge(noise(1)[0])
        assert found.reason == "engine_error"
        assert "did not start the inference" in found.detail
        assert "address of an output is not set" in found.detail
        standin("10.3.0", "enqueue_silently")  # the reason of the failure before is not this one's
        assert "it gave no reason" in detector.judge(noise(1)[0]).detail
        standin("10.3.0")
        assert detector.judge(noise(1)[0]).verdict != "NO-DECISION"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no_context", "no memory for an execution context.*GPU's memory is not enough"),
        ("address", "refuses the address of image"),
        ("enqueue", "did not start the inference"),
        ("null_factory", "driver is absent, or older"),
    ],
)
def test_what_fails_while_opening_is_worded_and_leaves_nothing(
    ready: Bundle, standin: Any, fault: str, said: str
) -> None:
    open_engine(ready, "tensorrt").close()
    standin("10.3.0", fault)
    with pytest.raises(EngineError, match=said):
        open_engine(ready, "tensorrt")


@pytest.mark.parametrize("limit", [100, 1500, 3000])
def test_memory_that_ends_while_opening_is_worded_and_leaves_nothing(
    ready: Bundle, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    open_engine(ready, "tensorrt").close()
    monkeypatch.setenv("FAKECUDA_LIMIT", str(limit))
    with pytest.raises(EngineError, match="GPU's memory is not enough; close other programs"):
        open_engine(ready, "tensorrt")


@pytest.mark.parametrize("fault", ["address", "enqueue"])
def test_a_failed_opening_gives_engine_and_context_back_before_the_gpu(
    ready: Bundle, standin: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The error is still there, as while a higher precision is tried in its place."""
    open_engine(ready, "tensorrt").close()
    standin("10.3.0", fault)
    import tensorrt

    from sanflow.runtime.trt.cuda_python import CudaPython

    made: list[Any] = []
    left: list[bool] = []
    create, close = tensorrt.ICudaEngine.create_execution_context, CudaPython.close

    def created(self: Any) -> Any:
        context = create(self)
        made.extend((weakref.ref(self), weakref.ref(context)))
        return context

    def closed(self: Any) -> None:
        gc.collect()  # the stand-in's contexts refer to themselves
        left.extend(context() is not None for context in made)
        close(self)

    monkeypatch.setattr(tensorrt.ICudaEngine, "create_execution_context", created)
    monkeypatch.setattr(CudaPython, "close", closed)
    with pytest.raises(EngineError):
        open_engine(ready, "tensorrt")
    assert left == [False, False]


def test_nothing_is_written_beside_the_cache(
    ready: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with open_engine(ready, "tensorrt") as engine:
        engine.infer(noise(1))
    assert not list(folder.iterdir())
