"""Every engine keeps the contract: shapes, errors, ownership, and one image, the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sanflow.errors import EngineError, InputError
from sanflow.runtime import Engine, TensorSpec
from sanflow.runtime.registry import open_graph
from sanflow.runtime.setting import Setting

from .conftest import HEIGHT, WIDTH, network, noise, overtaken, reference, to_ir

Load = Callable[..., Engine]


def load_ort(model: Any, tmp_path: Path, threads: int = 1) -> Engine:
    return open_graph({"model.onnx": model.SerializeToString()}, Setting("onnxruntime", threads))


def load_ov(model: Any, tmp_path: Path, threads: int = 1) -> Engine:
    return open_graph({"model.onnx": model.SerializeToString()}, Setting("openvino", threads))


def load_ir(model: Any, tmp_path: Path, threads: int = 1) -> Engine:
    return open_graph(to_ir(model, tmp_path), Setting("openvino", threads))


@pytest.fixture(params=[load_ort, load_ov, load_ir])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Each engine, and OpenVINO with each kind of graph it reads."""
    return lambda model, threads=1: request.param(model, tmp_path, threads)


@pytest.fixture
def engine(load: Load) -> Iterator[Engine]:
    with load(network()) as opened:
        yield opened


def bits(engine: Engine, images: NDArray[np.uint8]) -> list[bytes]:
    """Score and map of each image, byte by byte."""
    output = engine.infer(images)
    return [s.tobytes() + m.tobytes() for s, m in zip(output.score, output.map, strict=True)]


def test_inputs_and_outputs_are_named_with_dtype_and_shape(engine: Engine) -> None:
    assert engine.inputs == (TensorSpec("image", "uint8", (1, HEIGHT, WIDTH, 3)),)
    assert set(engine.outputs) == {
        TensorSpec("score", "float32", (1,)),
        TensorSpec("map", "float32", (1, HEIGHT, WIDTH)),
    }
    assert engine.batch == 1
    assert engine.version[0].isdigit()


def test_it_computes_the_graph_in_float32(engine: Engine, images: NDArray[np.uint8]) -> None:
    """bfloat16, OpenVINO's own choice on many processors, would be off by a hundredth."""
    scores, maps = reference(images)
    for image, score, heat in zip(images, scores, maps, strict=True):
        output = engine.infer(image[None])
        np.testing.assert_allclose(output.score, [score], rtol=1e-5)
        np.testing.assert_allclose(output.map[0], heat, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((1, HEIGHT, WIDTH, 3), np.float32), f"given float32 (1, {HEIGHT}, {WIDTH}, 3)"),
        (np.zeros((1, HEIGHT, WIDTH, 3), np.int8), "given int8"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), f"given uint8 ({HEIGHT}, {WIDTH}, 3)"),
        (np.zeros((2, HEIGHT, WIDTH, 3), np.uint8), "given uint8 (2, "),
        (np.zeros((1, 3, HEIGHT, WIDTH), np.uint8), f"given uint8 (1, 3, {HEIGHT}"),
        (np.zeros((1, HEIGHT, WIDTH, 1), np.uint8), f"{WIDTH}, 1)"),
        ([[0]], "given list"),
        (None, "given NoneType"),
    ],
)
def test_a_wrong_input_is_refused_with_the_expected_shape(
    engine: Engine, given: Any, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        engine.infer(given)
    assert said in str(caught.value)
    assert f"image uint8 (1, {HEIGHT}, {WIDTH}, 3)" in str(caught.value)


def test_a_view_gives_the_same_bits_and_is_not_written_to(engine: Engine) -> None:
    wide = noise(2, seed=5)
    view = wide[1:, :, ::-1]
    before = wide.copy()
    assert bits(engine, view) == bits(engine, np.ascontiguousarray(view))
    np.testing.assert_array_equal(wide, before)


def test_results_belong_to_the_caller(engine: Engine, images: NDArray[np.uint8]) -> None:
    """OpenVINO's outputs are its own buffers, which the next inference writes into."""
    first = engine.infer(images[:1])
    kept = first.score.copy(), first.map.copy()
    first_map = first.map
    engine.infer(images[1:2])
    np.testing.assert_array_equal(first.score, kept[0])
    np.testing.assert_array_equal(first_map, kept[1])
    first_map[:] = 7  # and writing to them harms nobody
    np.testing.assert_array_equal(engine.infer(images[:1]).map, kept[1])


def test_one_image_has_the_same_bits_in_any_batch_order_and_company(load: Load) -> None:
    images = noise(6)
    strange = [np.zeros_like(images[0]), np.full_like(images[0], 255), images[1]]
    with load(network(1)) as one:
        alone = [bits(one, image[None])[0] for image in images]
    for threads in (1, 2, 3):
        with load(network(4), threads) as four:
            for index, image in enumerate(images):
                for slot in range(4):
                    batch = np.stack([strange[(slot + i) % 3] for i in range(4)])
                    batch[slot] = image
                    assert bits(four, batch)[slot] == alone[index]
            for order in ([0, 1, 2, 3], [5, 4, 3, 2], [2, 2, 0, 2]):
                assert bits(four, images[order]) == [alone[i] for i in order]


def test_a_neighbour_without_finite_values_changes_nothing(load: Load) -> None:
    images = noise(4)
    with load(network(4, nan_on_black=True)) as engine:
        clean = bits(engine, images)
        images[[0, 2]] = 0
        assert np.isnan(engine.infer(images).map[[0, 2]]).all()
        assert [bits(engine, images)[i] for i in (1, 3)] == [clean[1], clean[3]]


def test_a_closed_engine_says_so(load: Load, images: NDArray[np.uint8]) -> None:
    with load(network()) as engine:
        engine.infer(images[:1])
    engine.close()
    with pytest.raises(EngineError, match="closed; open the bundle again"):
        engine.infer(images[:1])


def test_whoever_a_close_overtakes_is_told_and_does_not_wait(
    load: Load, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = overtaken(load(network()), images[:1], monkeypatch)
    assert len(said) == 3
    assert all("closed; open the bundle again" in words for words in said)


def test_a_graph_of_open_size_is_refused(load: Load) -> None:
    model = network()
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_param = "N"
    with pytest.raises(EngineError, match="expected fixed sizes; export the run again"):
        load(model)


def test_a_graph_with_other_ends_is_refused(load: Load) -> None:
    model = network()
    info = helper.make_tensor_value_info("c1", TensorProto.FLOAT, [1, 16, HEIGHT, WIDTH])
    model.graph.output.append(info)
    with pytest.raises(EngineError, match=r"c1 float32 \(1, 16, .*expected one input and"):
        load(model)


def test_nothing_is_written_to_disk(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some toolkits leave a model cache in the folder they are started from."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with load(network()) as engine:
        engine.infer(noise(1))
    assert list(folder.iterdir()) == []


class Stub(Engine):
    """An engine that returns, or raises, what it is told to."""

    name = "stub"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.released = 0
        outputs = (TensorSpec("score", "float32", (1,)), TensorSpec("map", "float32", (1, 2, 2)))
        super().__init__("1.0", 1, (TensorSpec("image", "uint8", (1, 2, 2, 3)),), outputs)

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return dict(self.answer)

    def _release(self) -> None:
        self.released += 1


IMAGE = np.zeros((1, 2, 2, 3), np.uint8)


def test_whatever_an_engine_raises_becomes_an_engine_error() -> None:
    with pytest.raises(EngineError, match=r"stub 1\.0: inference failed: out of luck") as caught:
        Stub(RuntimeError("out of luck")).infer(IMAGE)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_interrupt_stays_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        Stub(KeyboardInterrupt()).infer(IMAGE)


@pytest.mark.parametrize(
    ("score", "heat"),
    [
        (np.zeros(1, np.float64), np.zeros((1, 2, 2), np.float32)),
        (np.zeros((), np.float32), np.zeros((1, 2, 2), np.float32)),
        (np.zeros(1, np.float32), np.zeros((1, 2, 3), np.float32)),
    ],
)
def test_a_wrong_output_is_an_engine_error(score: Any, heat: Any) -> None:
    with pytest.raises(EngineError, match=r"returned float.*expected (score|map) float32"):
        Stub({"score": score, "map": heat}).infer(IMAGE)


def test_memory_is_given_back_once() -> None:
    with Stub({}) as engine:
        engine.close()
    engine.close()
    assert isinstance(engine, Stub)
    assert engine.released == 1


def test_int8_around_fp16_keeps_scales_whose_product_underflows(tmp_path: Path) -> None:
    """ONNX Runtime would make the bias an integer by their product, which FP16 does not hold."""
    step, small, bias = np.float16(2e-4), np.float16(1e-4), np.float16(0.01)

    def constant(name: str, values: NDArray[Any]) -> Any:
        return numpy_helper.from_array(values, name)

    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (1, 3, 3, 3)).astype(np.int8)
    constants = [
        constant("tiny", np.float32([1 / 255 / 50])),
        constant("step", np.array(step)),
        constant("zero", np.array(0, np.int8)),
        constant("weights", weights),
        constant("small", np.array([small])),
        constant("zeros", np.zeros(1, np.int8)),
        constant("bias", np.array([bias])),
        constant("one", np.array([1], np.int64)),
        constant("axes", np.array([1, 2], np.int64)),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "tiny"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["values"]),
        helper.make_node("DequantizeLinear", ["weights", "small", "zeros"], ["kernel"], axis=0),
        helper.make_node("Conv", ["values", "kernel", "bias"], ["product"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "step", "zero"], ["again"]),
        helper.make_node("DequantizeLinear", ["again", "step", "zero"], ["last"]),
        helper.make_node("Cast", ["last"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["wide", "one"], ["map"]),
        helper.make_node("ReduceMax", ["map", "axes"], ["score"], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, HEIGHT, WIDTH]),
    ]
    graph = helper.make_graph(nodes, "scales", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)

    picture = rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    half = (picture.astype(np.float32) / 255 / 50).astype(np.float16).astype(np.float32)
    codes = np.clip(np.round(half / np.float32(step)), -128, 127) * np.float32(step)
    padded = np.pad(codes[0].transpose(2, 0, 1), ((0, 0), (1, 1), (1, 1)))
    kernel = weights[0].astype(np.float32) * np.float32(small)
    product = sum(
        kernel[c, y, x] * padded[c, y : y + HEIGHT, x : x + WIDTH]
        for c in range(3)
        for y in range(3)
        for x in range(3)
    )
    with load_ort(model, tmp_path) as engine:
        found = engine.infer(picture).map[0]
    assert np.abs(found - np.maximum(product + np.float32(bias), 0)).max() <= 1.5 * float(step)
