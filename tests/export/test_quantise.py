"""INT8 graphs: their form, node by node, what they compute, and that engines compute it in int8."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sanflow.bundle.manifest import Target
from sanflow.calibration.ranges import Ranges, observe
from sanflow.calibration.rounding import round_layers
from sanflow.errors import InputError
from sanflow.export.candidate import Bench
from sanflow.export.fold import constants_of
from sanflow.export.graph import to_onnx
from sanflow.export.openvino import to_ir
from sanflow.export.parts import Part
from sanflow.export.plan import Plan, region_of
from sanflow.export.quantise import Activation, layers, quantise, tensors
from sanflow.export.whole import whole_pixels

from .conftest import noise, small_model

FORMS: tuple[Activation, ...] = get_args(Activation)
PAIR = ("QuantizeLinear", "DequantizeLinear")


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return to_onnx(small_model(pools=(1,), feature_scale="standard"))


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return list(noise(8, small_model()).numpy())


@pytest.fixture(scope="module")
def plan(graph: onnx.ModelProto) -> Plan:
    return Plan.uniform(graph, "int8")


@pytest.fixture(scope="module")
def ranges(graph: onnx.ModelProto, plan: Plan, images: list[NDArray[np.uint8]]) -> Ranges:
    return observe(graph, images, tensors(graph, plan), "mse")


def run(graph: onnx.ModelProto, images: list[NDArray[np.uint8]], *names: str) -> list[Any]:
    """Values of a graph in ONNX Runtime, per name, stacked over the images."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    del opened.graph.output[:]
    for name in names:
        opened.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(opened.SerializeToString(), options)
    found = [session.run(list(names), {"image": image[None]}) for image in images]
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def only(graph: onnx.ModelProto, region: str) -> Plan:
    """Int8 in one region."""
    return Plan.uniform(graph, "fp32").changed({region: "int8"})


@pytest.mark.parametrize("form", FORMS)
def test_every_layer_of_an_int8_region_and_no_other_reads_integers(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges, form: Activation
) -> None:
    made = quantise(graph, plan, ranges, form)
    makers = {name: node for node in made.graph.node for name in node.output}
    constants, counted = constants_of(made), Counter[bool]()
    for node in made.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        low = plan.of(region_of(node.name)) == "int8"
        counted[low] += 1
        both = [makers.get(name) for name in node.input[:2]]
        kinds = [maker is not None and maker.op_type == "DequantizeLinear" for maker in both]
        assert kinds == [low, low], node.name
        if low:
            weight = makers[node.input[1]]
            assert constants[weight.input[0]].dtype == np.int8
            assert constants[weight.input[1]].shape == constants[weight.input[0]].shape[:1]
            assert constants[node.input[2]].dtype == np.float32 if len(node.input) > 2 else True
    assert counted[True] > 20
    assert counted[False] > 0  # means in the likelihood
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.parametrize("form", FORMS)
def test_one_pair_per_value_with_explicit_zero_points(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges, form: Activation
) -> None:
    made = quantise(graph, plan, ranges, form)
    constants = constants_of(made)
    readers = defaultdict(list)
    for node in made.graph.node:
        for name in node.input:
            readers[name].append(node)
    quantisers = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    values = [node.input[0] for node in quantisers]
    assert len(set(values)) == len(values)
    zeros = set()
    for node in quantisers:
        (real,) = readers[node.output[0]]
        assert real.op_type == "DequantizeLinear"
        assert real.input[1:] == node.input[1:]
        assert constants[node.input[1]] > 0
        zero = constants[node.input[2]]
        zeros.add((str(zero.dtype), int(zero)))
    assert zeros == ({("int8", 0)} if form == "int8" else {("uint8", 0), ("uint8", 128)})


def test_symmetric_values_that_only_floats_read_have_no_pair(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges
) -> None:
    made = quantise(graph, plan, ranges)
    for node in made.graph.node:
        if node.op_type not in PAIR and plan.of(region_of(node.name)) != "int8":
            assert not any(name.endswith("dequantise") for name in node.input), node.name


@pytest.mark.parametrize("form", FORMS)
def test_both_inputs_of_a_residual_sum_are_quantised_and_moves_keep_their_scale(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges, form: Activation
) -> None:
    made = quantise(graph, plan, ranges, form)
    makers = {name: node for node in made.graph.node for name in node.output}
    constants = constants_of(made)
    sums = [n for n in made.graph.node if n.op_type == "Add" and "/layer1" in n.name]
    assert len(sums) == 2
    for node in sums:
        assert all(makers[name].op_type == "DequantizeLinear" for name in node.input)
    moves = [n for n in made.graph.node if n.op_type in ("Pad", "MaxPool") and "layer" in n.name]
    assert moves
    for node in moves:
        before = makers[node.input[0]]
        (after,) = (n for n in made.graph.node if node.output[0] in n.input)
        assert constants[before.input[1]] == constants[after.input[1]]


def test_weights_are_within_half_a_step_of_the_real_ones(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges
) -> None:
    made = quantise(graph, plan, ranges)
    before, after = constants_of(graph), constants_of(made)
    checked = 0
    for node in graph.graph.node:
        label = f"{node.name}/weight"
        if f"{label}/int8" in after:
            weight = before[node.input[1]]
            scale = after[f"{label}/scale"].reshape(-1, *[1] * (weight.ndim - 1))
            error = np.abs(weight - after[f"{label}/int8"] * scale.astype(np.float64))
            assert (error <= 0.5001 * scale).all()
            assert node.input[1] not in after
            checked += 1
    assert checked > 20


def test_outside_its_region_a_plan_changes_nothing(graph: onnx.ModelProto, ranges: Ranges) -> None:
    made = quantise(graph, only(graph, "level1.last"), ranges)
    new = {node.name: node for node in made.graph.node}
    for node in graph.graph.node:
        if region_of(node.name) != "level1.last":
            assert new[node.name] == node
    added = set(new) - {node.name for node in graph.graph.node}
    assert added
    assert {region_of(name) for name in added} == {"level1.last"}


def in_openvino(graph: onnx.ModelProto, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Maps of a graph made into IR, as the openvino target is."""
    model = openvino.Core().read_model(*to_ir(graph))
    request = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([np.array(request(image[None])["map"]) for image in images])


@pytest.mark.parametrize("form", FORMS)
def test_two_engines_err_alike(
    graph: onnx.ModelProto, ranges: Ranges, images: list[NDArray[np.uint8]], form: Activation
) -> None:
    """In one layer's depth: further on, values that one engine rounds up and one down multiply."""
    made = quantise(graph, only(graph, "level1.last"), ranges, form)
    (wanted,), (found,) = run(graph, images, "map"), run(made, images, "map")
    error = np.abs(found - wanted).mean()
    assert error > 0
    assert np.abs(in_openvino(made, images) - found).mean() < 0.05 * error


@pytest.mark.parametrize("form", FORMS)
def test_in_openvino_a_quantiser_is_one_node_and_shapes_are_no_arithmetic(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges, form: Activation
) -> None:
    made = quantise(graph, plan, ranges, form)
    core = openvino.Core()
    written, read = (core.read_model(*to_ir(made)), core.read_model(made.SerializeToString()))
    kinds, before = ([op.get_type_name() for op in model.get_ops()] for model in (written, read))
    quantisers = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert kinds.count("FakeQuantize") == len(quantisers) > 20
    assert kinds.count("Convert") < 0.5 * before.count("Convert")
    assert "ShapeOf" in before
    assert not {"ShapeOf", "Broadcast"} & set(kinds)
    assert len(kinds) < 0.6 * len(before)
    constants = (op for op in written.get_ops() if op.get_type_name() == "Constant")
    levels = [op.get_data() for op in constants if op.get_element_type() == openvino.Type.i8]
    wanted = [value for name, value in constants_of(made).items() if name.endswith("/weight/int8")]
    assert sum(value.size for value in levels) == sum(value.size for value in wanted)


@pytest.mark.parametrize("form", FORMS)
def test_all_regions_together_stay_near_fp32(
    graph: onnx.ModelProto,
    plan: Plan,
    ranges: Ranges,
    images: list[NDArray[np.uint8]],
    form: Activation,
) -> None:
    made = quantise(graph, plan, ranges, form)
    (wanted,), (found,) = run(graph, images, "map"), run(made, images, "map")
    for maps in (found, in_openvino(made, images)):
        assert np.abs(maps - wanted).mean() < 0.2 * wanted.std()


def test_depthwise_layers_are_quantised_per_channel_and_padded_pixels_keep_their_mean(
    images: list[NDArray[np.uint8]],
) -> None:
    graph = to_onnx(small_model(extractor="mobilenet_v2"))
    plan = Plan.uniform(graph, "int8")
    assert whole_pixels(graph, plan) == {}  # its padded zeros stand for the mean
    made = quantise(graph, plan, observe(graph, images, tensors(graph, plan), "mse"), "uint8")
    scales = constants_of(made)
    depthwise = [
        n for n in graph.graph.node if any(a.name == "group" and a.i > 1 for a in n.attribute)
    ]
    assert depthwise
    for node in depthwise:
        label = f"{node.name}/weight"
        assert scales[f"{label}/scale"].shape == scales[f"{label}/int8"].shape[:1]
    (wanted,), (found,) = run(graph, images, "map"), run(made, images, "map")
    assert np.abs(found - wanted).mean() < wanted.std()


def test_what_relu6_leaves_is_what_is_quantised(images: list[NDArray[np.uint8]]) -> None:
    """Before it values are many times as large: their steps would be coarser by as much."""
    graph = to_onnx(small_model(extractor="mobilenet_v2"))
    plan = Plan.uniform(graph, "int8")
    ranges = observe(graph, images, tensors(graph, plan), "minmax")
    made = quantise(graph, plan, ranges, "uint8")
    values = constants_of(made)
    writes = {name: node for node in made.graph.node for name in node.output}
    clipped = [n for n in made.graph.node if n.op_type == "Clip" and "stages" in n.name]
    assert clipped
    for node in clipped:
        assert writes[node.input[0]].op_type == "Conv"
        (reader,) = (n for n in made.graph.node if node.output[0] in n.input)
        assert reader.op_type == "QuantizeLinear"
        assert values[reader.input[2]] == 0
        assert float(values[reader.input[1]]) <= 6 / 255


@pytest.mark.parametrize("form", FORMS)
def test_openvino_computes_every_layer_in_int8(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges, form: Activation
) -> None:
    made = quantise(graph, plan, ranges, form)
    layers = sum(
        node.op_type == "Conv" and plan.of(region_of(node.name)) == "int8"
        for node in graph.graph.node
    )
    compiled = openvino.compile_model(
        openvino.Core().read_model(made.SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kinds = Counter(
        str(info["runtimePrecision"].astype(str))
        for info in infos
        if info["layerType"].astype(str) == "Convolution"
    )
    assert kinds["i8"] + kinds["u8"] == layers


def test_pixels_less_128_are_exact(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges, images: list[NDArray[np.uint8]]
) -> None:
    moved = onnx.ModelProto()
    moved.CopyFrom(graph)
    ((whole, (origin, shift)),) = whole_pixels(moved, plan).items()
    values, before = run(moved, images, whole, origin)
    np.testing.assert_array_equal(values, np.round(values))
    assert values.min() >= -128
    assert values.max() <= 127
    np.testing.assert_allclose(values, before + shift[:, None, None], atol=1e-4)
    np.testing.assert_allclose(*run(moved, images, "map"), *run(graph, images, "map"), atol=1e-4)
    for form in FORMS:
        made = quantise(graph, plan, ranges, form)
        (first,) = (n for n in made.graph.node if n.op_type in PAIR[:1] and n.input[0] == whole)
        assert constants_of(made)[first.input[1]] == 1


def test_the_bias_takes_back_what_rounded_weights_add(
    graph: onnx.ModelProto, ranges: Ranges, images: list[NDArray[np.uint8]]
) -> None:
    """Per channel, the mean of a layer's output is kept; without the means it is not."""
    plan = only(graph, "extractor2")
    layer = next(n for n in graph.graph.node if n.op_type == "Conv" and "layer2.1" in n.name)
    name = layer.output[0]
    unaware = Ranges(
        "mse",
        ranges.count,
        ranges.maxima,
        {key: (0.0,) * len(means) for key, means in ranges.means.items()},
        0,
    )

    def error(used: Ranges) -> float:
        (wanted,) = run(graph, images, name)
        (found,) = run(quantise(graph, plan, used, "uint8"), images, name)
        return float(np.square((found - wanted).mean(axis=(0, 2, 3))).mean())

    assert error(ranges) < 0.5 * error(unaware)


def test_the_graph_given_stays_as_it_was(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges
) -> None:
    before = graph.SerializeToString(deterministic=True)
    first = quantise(graph, plan, ranges).SerializeToString(deterministic=True)
    assert graph.SerializeToString(deterministic=True) == before
    assert quantise(graph, plan, ranges).SerializeToString(deterministic=True) == first
    assert len(first) < 0.5 * len(before)


def test_missing_ranges_and_unknown_forms_are_refused(
    graph: onnx.ModelProto, plan: Plan, images: list[NDArray[np.uint8]], ranges: Ranges
) -> None:
    few = observe(graph, images[:1], tensors(graph, plan)[:3], "minmax")
    with pytest.raises(InputError, match="no range was observed"):
        quantise(graph, plan, few)
    with pytest.raises(InputError, match="'int4' is not one of"):
        quantise(graph, plan, ranges, "int4")  # type: ignore[arg-type]


@pytest.mark.trt_builder
def test_the_builder_makes_an_int8_engine(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    made = quantise(graph, plan, ranges, "int8")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(made.SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None


def test_a_layer_that_is_a_matrix_product_is_quantised_along_its_outputs() -> None:
    """Gemm (either way round) and MatMul beside numpy, in ranges that hold every value exactly."""
    rng = np.random.default_rng(0)
    weights = {
        "Gemm": rng.integers(-127, 128, (4, 6)).astype(np.float32),
        "MatMul": rng.integers(-127, 128, (6, 4)).astype(np.float32),
    }
    for kind, weight in weights.items():
        weight[0] = 127  # every output channel has the scale of one step
        weight[:, 0] = 127
        scales = np.arange(1, 5, dtype=np.float32)
        real = weight * (scales[:, None] if kind == "Gemm" else scales)
        attributes = {"transB": 1} if kind == "Gemm" else {}
        nodes = [
            helper.make_node("Cast", ["image"], ["rows"], "/pixels/Cast", to=1),
            helper.make_node(kind, ["rows", "weight"], ["map"], "/head/layer", **attributes),
        ]
        made = helper.make_model(
            helper.make_graph(
                nodes,
                "test",
                [helper.make_tensor_value_info("image", 2, [1, 6])],
                [helper.make_tensor_value_info("map", 1, [1, 4])],
                [numpy_helper.from_array(real, "weight")],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        plan = Plan({"input": "fp32", "head": "int8"})
        assert tensors(made, plan) == ("rows",)
        found = quantise(made, plan, Ranges("minmax", 1, {"rows": 127}, {"rows": (0,) * 6}, 0))
        rows = rng.integers(0, 128, 6).astype(np.uint8)
        (value,) = run(found, [rows], "map")
        np.testing.assert_allclose(
            value[0], (real if kind == "Gemm" else real.T) @ rows.astype(np.float32), rtol=1e-6
        )


def test_weights_that_were_rounded_for_their_inputs_are_shipped_and_serve_the_graph_better(
    graph: onnx.ModelProto, plan: Plan, ranges: Ranges, images: list[NDArray[np.uint8]]
) -> None:
    rounded = round_layers(graph, images, layers(graph, plan))
    made = quantise(graph, plan, ranges, rounded=rounded)
    after = constants_of(made)
    assert len(rounded) > 20
    for name, small in rounded.items():
        assert np.array_equal(after[f"{name}/weight/int8"], small)
    (wanted,) = run(graph, images, "map")
    (plain,) = run(quantise(graph, plan, ranges), images, "map")
    (found,) = run(made, images, "map")
    assert np.abs(found - wanted).mean() < np.abs(plain - wanted).mean()


def test_layers_that_share_weights_ship_each_its_own(images: list[NDArray[np.uint8]]) -> None:
    """The bias takes back what the layer's own rounding adds, not another one's."""
    graph = to_onnx(small_model(taps=(8, 16)))
    plan = only(graph, "head")
    rounded = round_layers(graph, images, layers(graph, plan))
    readers = Counter(n.input[1] for n in graph.graph.node if n.name in rounded)
    assert max(readers.values()) > 1, "the head's windows read the same weights"
    ranges = observe(graph, images, tensors(graph, plan), "mse")
    after = constants_of(quantise(graph, plan, ranges, rounded=rounded))
    for name, small in rounded.items():
        assert np.array_equal(after[f"{name}/weight/int8"], small)


@pytest.mark.parametrize("grey", [0, 137])
def test_parts_on_a_background_that_is_the_same_in_each(grey: int) -> None:
    """The head's layers at the image's border then read what never varies."""
    model = small_model(taps=(8, 16), height=128, width=192, head_width=16)
    graph, parts = to_onnx(model), noise(8, model).numpy()
    inside = parts[:, 24:-24, 24:-24].copy()
    parts[:] = grey
    parts[:, 24:-24, 24:-24] = inside
    named = layers(graph, only(graph, "head"))
    rounded = round_layers(graph, list(parts), named)
    assert set(rounded) == set(named)


def test_a_bench_rounds_for_the_parts_that_it_is_given(images: list[NDArray[np.uint8]]) -> None:
    model = small_model()
    empty = np.zeros(images[0].shape[:2], np.float32)
    good = tuple(Part(str(n), "calibration", image, 0.0, empty) for n, image in enumerate(images))
    bench = Bench(to_onnx(model), "onnx", "int8", model, good)
    (data,) = bench.uniform("int8").files.values()
    shipped = constants_of(onnx.load_from_string(data))
    for node in bench.graph.graph.node:
        if node.name in bench.rounded:
            found = shipped[f"{node.name}/weight/int8"]
            assert np.array_equal(found, bench.rounded[node.name])


@pytest.mark.parametrize(("form", "target"), [("uint8", "openvino"), ("int8", "onnx")])
def test_uint8_holds_whatever_a_good_part_reaches(
    images: list[NDArray[np.uint8]], form: Activation, target: Target
) -> None:
    """Anomalies lie beyond good parts: with the steps to spare, nothing good is clipped first."""
    model = small_model()
    empty = np.zeros(images[0].shape[:2], np.float32)
    good = tuple(Part(str(n), "calibration", image, 0.0, empty) for n, image in enumerate(images))
    bench = Bench(to_onnx(model), target, form, model, good)
    widest = observe(bench.graph, images, bench.ranges.maxima, "minmax")
    clipped = [t for t, peak in widest.maxima.items() if bench.ranges.maxima[t] < peak]
    assert bool(clipped) == (form == "int8")
