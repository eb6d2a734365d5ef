"""Halves where the plan says so and nowhere else, and engines that compute them alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from sanflow.calibration.ranges import derive, histograms
from sanflow.errors import InputError
from sanflow.export.graph import to_onnx
from sanflow.export.half import CLIP, to_half
from sanflow.export.lint import lint
from sanflow.export.openvino import to_ir
from sanflow.export.plan import MOVES, Plan, region_of, regions_of
from sanflow.export.quantise import quantise, tensors

from .conftest import noise, small_model
from .typed_graphs import (
    COUPLING,
    EXTRACTOR,
    FIRST,
    LIKELIHOOD,
    graph,
    node,
    pair,
    quantised,
    types,
    weights,
)

FLOAT, FP16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="module")
def whole() -> onnx.ModelProto:
    """A real graph of two levels, for two images."""
    return to_onnx(small_model(), batch=2)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.asarray(noise(4, small_model()).numpy())


def every(whole: onnx.ModelProto, precision: str) -> Plan:
    """All regions that may be this low are."""
    plan = Plan.uniform(whole, "int8")
    low = {r: precision for r in plan.regions if plan.of(r) == "int8"}
    return plan.changed(low)  # type: ignore[arg-type]


def run_ort(model: onnx.ModelProto, x: NDArray[Any]) -> Arrays:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    score, heat = session.run(["score", "map"], {"image": x})
    return score, heat


def compiled(model: onnx.ModelProto) -> Any:
    """In OpenVINO from its IR, as a bundle is opened."""
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(core.read_model(*to_ir(model)), "CPU", settings)


def run_ov(model: onnx.ModelProto, x: NDArray[Any]) -> Arrays:
    found = compiled(model)({"image": x})
    return np.array(found["score"]), np.array(found["map"])


def single(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    return np.asarray(y)


def test_a_plan_without_halves_gives_the_graph_back(whole: onnx.ModelProto) -> None:
    for precision in ("fp32", "int8"):
        assert to_half(whole, Plan.uniform(whole, precision)) is whole  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "kind"), [("fp16", FP16), ("bf16", BF16)])
@pytest.mark.parametrize("everywhere", [False, True])
def test_each_region_has_its_type_and_no_other(
    whole: onnx.ModelProto, precision: str, kind: int, everywhere: bool
) -> None:
    plan = every(whole, precision) if everywhere else Plan.uniform(whole, precision)  # type: ignore[arg-type]
    half = to_half(whole, plan)
    found = types(half)
    assert {plan.of(r) for r in regions_of(half)} == {"fp32", precision}
    for n in half.graph.node:
        if n.op_type in ("Cast", "Clip") and n.name.split("/")[-1].startswith(("cast_", "clip_")):
            continue
        if n.op_type in MOVES:
            assert found[n.input[0]] == found[n.output[0]]
            continue
        wanted = kind if plan.of(region_of(n.name)) == precision else FLOAT
        floats = {found[name] for name in (*n.input, *n.output) if name} & {FLOAT, FP16, BF16}
        assert floats <= {wanted}, n.name
    assert [found[name] for name in ("score", "map")] == [FLOAT, FLOAT]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_nothing_is_cast_twice_or_back(whole: onnx.ModelProto, precision: str) -> None:
    half = to_half(whole, every(whole, precision))
    casts = [n for n in half.graph.node if n.op_type == "Cast"]
    made = {n.output[0] for n in casts}
    assert not made & {n.input[0] for n in casts}
    sources = [n.input[0] for n in casts]
    assert len(set(sources)) == len(sources)
    assert len({n.name for n in half.graph.node}) == len(half.graph.node)
    lint(half, bf16=precision == "bf16")


def test_the_input_of_both_extractor_and_head_is_cast_once(whole: onnx.ModelProto) -> None:
    half = to_half(whole, Plan.uniform(whole, "fp16"))
    into = [n for n in half.graph.node if n.op_type == "Cast" and n.attribute[0].i == FP16]
    assert len(into) == 1


def test_operator_sets_stay_as_low_as_the_types_allow(whole: onnx.ModelProto) -> None:
    low = dict.fromkeys(regions_of(quantised()), "fp16")
    low[region_of(LIKELIHOOD)] = "fp32"
    around = Plan({"extractor": "int8", "likelihood": "fp32"})
    for model, version in [
        (to_half(whole, every(whole, "fp16")), 17),
        (to_half(quantised(), around, floats="fp16"), 19),
        (to_half(whole, every(whole, "bf16")), 22),
    ]:
        assert [entry.version for entry in model.opset_import] == [version]


def two_convolutions(first: NDArray[np.float32], second: NDArray[np.float32]) -> onnx.ModelProto:
    return graph(
        node("Conv", ["x", "w1"], ["c"], COUPLING.replace("Exp", "Conv")),
        node("Conv", ["c", "w2"], ["d"], FIRST),
        node("Tanh", ["d"], ["y"], LIKELIHOOD),
        w1=first,
        w2=second,
    )


def test_what_enters_a_product_of_the_flow_is_clipped() -> None:
    """An anomaly's 1e6 would be infinite, and 0 times infinite not a number."""
    w1 = np.eye(2, dtype=np.float32)[:, :, None, None] * 1e4
    w2 = np.float32([[1e-4, 0], [0, 1e-4]])[:, :, None, None]
    model = two_convolutions(w1, w2)
    plan = Plan.uniform(model, "fp32").changed({"level1.first": "fp16"})
    x = np.full((1, 2, 4, 4), 100, np.float32)
    y = single(to_half(model, plan), x)
    np.testing.assert_allclose(y, np.tanh(CLIP * 1e-4), rtol=1e-3)
    assert np.isfinite(y).all()


def test_bounded_pixels_and_the_range_of_bf16_need_no_clip(whole: onnx.ModelProto) -> None:
    for plan in (Plan.uniform(whole, "fp16"), every(whole, "bf16")):
        clips = [n for n in to_half(whole, plan).graph.node if n.name.endswith("/clip_0")]
        assert clips == []


def test_a_weight_of_two_regions_is_there_in_both_types() -> None:
    model = graph(
        node("Conv", ["x", "w"], ["c"], EXTRACTOR),
        node("Conv", ["c", "w"], ["y"], "/likelihood/Conv"),
        w=weights(),
    )
    half = to_half(model, Plan({"extractor": "fp16", "likelihood": "fp32"}))
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds == {"w": FLOAT, "w.half": FP16}
    x = np.random.default_rng(1).normal(size=(1, 2, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(single(half, x), single(model, x), atol=0.01)


def test_weights_that_fp16_cannot_hold_are_never_infinite() -> None:
    w = np.float32([[1e6, 1], [1e-6, 1e-9]])[:, :, None, None]
    model = graph(
        node("Conv", ["x", "w"], ["c"], EXTRACTOR), node("Tanh", ["c"], ["y"], LIKELIHOOD), w=w
    )
    half = to_half(model, Plan.uniform(model, "fp16"))
    (stored,) = (numpy_helper.to_array(t) for t in half.graph.initializer)
    assert stored.ravel().tolist() == [65504, 1, np.float16(1e-6), 0]


def test_weights_take_half_the_space(whole: onnx.ModelProto) -> None:
    for precision in ("fp16", "bf16"):
        assert to_half(whole, every(whole, precision)).ByteSize() < 0.55 * whole.ByteSize()


@pytest.mark.parametrize("scale", [1e-9, 3e-7, 0.0123, 0.1])
def test_scales_and_int8_weights_mean_the_same_after_rounding(scale: float) -> None:
    """1e-9 is the scale of a channel that is hardly used: FP16 has no such number above 0."""
    model = quantised(scale=np.float32(0.0123), weight_scale=np.float32([scale, 0.02]))
    half = to_half(model, Plan({"extractor": "int8", "likelihood": "fp32"}), floats="fp16")
    lint(half)
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    assert after["ws.half"].dtype == np.float16
    exact = before["w"].astype(np.float64) * before["ws"].astype(np.float64)[:, None, None, None]
    steps = after["ws.half"].astype(np.float64)[:, None, None, None]
    # Half a step, and what FP16 rounds of a scale that keeps its integers.
    off = np.abs(after["w"].astype(np.float64) * steps - exact)
    assert (off <= 0.5 * steps + 2**-11 * np.abs(exact)).all()


def test_a_value_is_quantised_as_it_comes() -> None:
    """QuantizeLinear takes the FP32 value: a Cast before it would only round twice."""
    half = to_half(quantised(), Plan({"extractor": "int8", "likelihood": "fp32"}), floats="fp16")
    found, nodes = types(half), {n.name: n for n in half.graph.node}
    quantise, dequantise = nodes[f"{EXTRACTOR}/quantise"], nodes[f"{EXTRACTOR}/dequantise"]
    assert (quantise.input[0], found[quantise.input[1]]) == ("x", FLOAT)
    assert found[dequantise.output[0]] == found[dequantise.input[1]] == FP16
    stored = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    assert stored[quantise.input[1]] == stored[dequantise.input[1]]


def test_int8_beside_bf16_stays_around_fp32() -> None:
    """OpenVINO computes int8 around BF16 wrongly, so BF16 is cast before it is quantised."""
    nodes, constants = pair("/head/Conv", "c", np.asarray(0.05, "f4"), np.int8(0), "a")
    model = graph(
        node("Conv", ["x", "w"], ["c"], EXTRACTOR),
        *nodes,
        node("Conv", ["a", "w"], ["d"], "/head/Conv"),
        node("Tanh", ["d"], ["y"], LIKELIHOOD),
        w=weights(),
        **constants,
    )
    made = to_half(model, Plan({"extractor": "bf16", "head": "int8", "likelihood": "fp32"}))
    lint(made, bf16=True)
    found = types(made)
    coding = [n for n in made.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {found[name] for n in coding for name in n.input[:2]} == {FLOAT, TensorProto.INT8}
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert stored["a_scale"] == np.float32(0.05)


def test_two_half_types_and_halves_twice_are_refused(whole: onnx.ModelProto) -> None:
    half = to_half(whole, Plan.uniform(whole, "fp16"))
    with pytest.raises(InputError, match="has halves already; give the FP32 or Q/DQ graph"):
        to_half(half, Plan.uniform(half, "fp16"))
    plan = Plan.uniform(whole, "bf16").changed({"head": "int8"})
    with pytest.raises(InputError, match="use one half type"):
        to_half(whole, plan, floats="fp16")


@pytest.mark.parametrize(
    ("run", "precision", "bound"),
    [(run_ort, "fp16", 0.01), (run_ov, "fp16", 0.01), (run_ov, "bf16", 0.08)],
)
def test_engines_agree_and_no_neighbour_changes_a_bit(
    whole: onnx.ModelProto, images: NDArray[np.uint8], run: Any, precision: str, bound: float
) -> None:
    half = to_half(whole, every(whole, precision))
    exact = run_ort(whole, images[:2])
    found = run(half, images[:2])
    errors = [float(np.abs(a - b).max()) for a, b in zip(found, exact, strict=True)]
    assert 0 < errors[1] < bound
    swapped, beside = run(half, images[1::-1]), run(half, images[[0, 3]])
    for k in range(2):
        assert swapped[k][1].tobytes() == found[k][0].tobytes() == beside[k][0].tobytes()


def test_openvino_computes_bf16_where_the_plan_says_and_fp32_elsewhere(
    whole: onnx.ModelProto,
) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    plan = every(whole, "bf16")
    ran = compiled(to_half(whole, plan)).get_runtime_model().get_ordered_ops()
    seen: dict[str, set[str]] = {"bf16": set(), "fp32": set()}
    for op in ran:
        info = {key: str(value.value) for key, value in dict(op.get_rt_info()).items()}
        names = info["originalLayersNames"].split(",")
        computes = info["layerType"] in ("Convolution", "Subgraph", "Reduce", "Interpolate")
        if not computes or "/cast_" in info["originalLayersNames"]:
            continue  # what holds a Cast has one type on either side
        for name in names:
            if name.startswith("/"):
                region = plan.regions[region_of(name)]
                seen[region].add(info["runtimePrecision"])
    assert seen["bf16"] == {"bf16"}
    assert seen["fp32"] <= {"f32", "u8"}  # u8: the pixels, as they come in


def int8_around_fp16(whole: onnx.ModelProto, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """What a GPU is given: int8 products, FP16 between them, FP32 in couplings and likelihood."""
    plan = Plan.uniform(whole, "int8")
    alone = to_onnx(small_model())
    ranges = derive(histograms(alone, list(images), tensors(alone, plan)), "mse")
    return to_half(quantise(whole, plan, ranges), plan, floats="fp16")


@pytest.mark.trt_builder
@pytest.mark.parametrize("form", ["safe", "every", "int8 around fp16"])
def test_nvidias_builder_makes_an_engine(
    whole: onnx.ModelProto, images: NDArray[np.uint8], form: str
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    model = {
        "safe": lambda: to_half(whole, Plan.uniform(whole, "fp16")),
        "every": lambda: to_half(whole, every(whole, "fp16")),
        "int8 around fp16": lambda: int8_around_fp16(whole, images),
    }[form]()
    lint(model)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None
