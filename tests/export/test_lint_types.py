"""Each rule for typed graphs refuses what breaks it alone, names the node and the way out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sanflow.errors import InputError
from sanflow.export.half import to_half
from sanflow.export.lint import lint
from sanflow.export.plan import Plan

from .typed_graphs import (
    COUPLING,
    EXTRACTOR,
    FIRST,
    LIKELIHOOD,
    graph,
    node,
    pair,
    quantised,
    weights,
)

FP16, BF16 = TensorProto.FLOAT16, TensorProto.BFLOAT16


def half(precision: str = "fp16") -> onnx.ModelProto:
    """A valid graph with a half extractor."""
    model = graph(
        node("Conv", ["x", "w"], ["c"], EXTRACTOR),
        node("Tanh", ["c"], ["y"], LIKELIHOOD),
        w=weights(),
    )
    return to_half(model, Plan({"extractor": precision, "likelihood": "fp32"}))  # type: ignore[dict-item]


def quantised_half() -> onnx.ModelProto:
    """A valid graph with int8 around FP16."""
    return to_half(quantised(), Plan({"extractor": "int8", "likelihood": "fp32"}), floats="fp16")


def test_valid_graphs_pass() -> None:
    lint(half())
    lint(half("bf16"), bf16=True)
    lint(quantised())
    lint(quantised_half())
    lint(quantised(zero=np.uint8(128)), uint8=True)


def of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def replace(model: onnx.ModelProto, name: str, value: object) -> onnx.ModelProto:
    """The same graph with another constant."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return model


def version(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    model.opset_import[0].version = opset
    model.ir_version = 10
    return model


def without_zero_point() -> onnx.ModelProto:
    model = quantised()
    del of(model, f"{EXTRACTOR}/weight").input[2]
    return model


def int32_bias() -> onnx.ModelProto:
    model = quantised()
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in {
            "b": np.int32([5, 7]),
            "bs": np.float32([0.1, 0.1]),
            "bz": np.int32([0, 0]),
        }.items()
    )
    names = ["b", "bs", "bz"]
    model.graph.node.insert(0, node("DequantizeLinear", names, ["bf"], "/extractor/bias", axis=0))
    of(model, EXTRACTOR).input.append("bf")
    return model


def computed_scale() -> onnx.ModelProto:
    model = quantised()
    model.graph.node.insert(0, node("Exp", ["a_scale"], ["s"], "/extractor/Exp"))
    of(model, f"{EXTRACTOR}/quantise").input[1] = "s"
    return model


def scales_of_a_value() -> onnx.ModelProto:
    model = quantised()
    for end, value in (("scale", np.float32([0.1, 0.2])), ("zero", np.int8([0, 0]))):
        replace(model, f"a_{end}", value)
    return model


def product(kind: str, axis: int, **options: int) -> onnx.ModelProto:
    """A product of 2 x 3 weights with one scale per output channel along an axis."""
    shape = (2, 3) if axis == 0 else (3, 2)
    count = shape[axis]
    nodes, constants = pair("/head/Gemm", "f", np.float32(0.1), np.int8(0), "a")
    nodes = [
        node("Slice", ["x", "from", "to"], ["s"], "/head/Slice"),
        node("Reshape", ["s", "flat"], ["f"], "/head/Reshape"),
        *nodes,
        node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], "/head/weight", axis=axis),
        node(kind, ["a", "wf"], ["p"], "/head/Gemm", **options),
        node("ReduceMax", ["p"], ["m"], "/head/Max", keepdims=0),
        node("Add", ["x", "m"], ["y"], LIKELIHOOD),
    ]
    constants |= {
        "from": np.array([0, 0, 0, 0]),
        "to": np.array([1, 1, 1, 3]),
        "flat": np.array([1, 3]),
        "w": np.ones(shape, np.int8),
        "ws": np.full(count, 0.1, np.float32),
        "wz": np.zeros(count, np.int8),
    }
    return graph(*nodes, **constants)


def uneven_scales() -> onnx.ModelProto:
    return quantised(weight_scale=np.float32([0.1, 0.1, 0.1]))


def other_scale_type() -> onnx.ModelProto:
    model = quantised_half()
    return replace(model, "a_scale", np.float16(0.05))


def bf16_around_int8() -> onnx.ModelProto:
    nodes, constants = pair(EXTRACTOR, "h", np.float32(0.1), np.int8(0), "a")
    model = graph(
        node("Cast", ["x"], ["h"], f"{EXTRACTOR}/cast_0", to=BF16),
        *nodes,
        node("Cast", ["a"], ["y"], f"{LIKELIHOOD}/cast_0", to=1),
        **constants,
    )
    tensor = next(t for t in model.graph.initializer if t.name == "a_scale")
    tensor.CopyFrom(helper.make_tensor("a_scale", BF16, [], [0.1]))
    return version(model, 22)


def coupling_in_half() -> onnx.ModelProto:
    model = half()
    of(model, LIKELIHOOD).name = COUPLING
    cast = of(model, f"{LIKELIHOOD}/cast_0")
    cast.input[0], cast.output[0] = "t", "y"
    tanh = of(model, COUPLING)
    tanh.input[0], tanh.output[0] = "c", "t"
    nodes = [n for n in model.graph.node if n is not cast]
    del model.graph.node[:]
    model.graph.node.extend(sorted(nodes, key=lambda n: n.op_type == "Cast" and n.output[0] == "y"))
    return model


def back_and_forth() -> onnx.ModelProto:
    model = half()
    cast = of(model, f"{EXTRACTOR}/cast_0")
    model.graph.node.insert(1, node("Cast", [cast.output[0]], ["b"], "back", to=1))
    model.graph.node.insert(2, node("Cast", ["b"], ["h"], "forth", to=FP16))
    of(model, EXTRACTOR).input[0] = "h"
    return model


def half_output() -> onnx.ModelProto:
    model = half()
    of(model, LIKELIHOOD).input[0] = of(model, EXTRACTOR).output[0]
    model.graph.output[0].type.tensor_type.elem_type = FP16
    kept = [n for n in model.graph.node if n.name != f"{LIKELIHOOD}/cast_0"]
    of(model, LIKELIHOOD).name = "/extractor/Tanh"
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def zero_divisor() -> onnx.ModelProto:
    model = graph(
        node("Div", ["x", "d"], ["c"], "/extractor/Div"),
        node("Tanh", ["c"], ["y"], LIKELIHOOD),
        d=np.float32([1e-9]),
    )
    return to_half(model, Plan({"extractor": "fp16", "likelihood": "fp32"}))


def weights_of_another_type() -> onnx.ModelProto:
    """A DequantizeLinear makes what its scale is: FP32 weights beside an FP16 value."""
    return replace(quantised_half(), "ws.half", np.float32([0.01, 0.02]))


def other_way_back() -> onnx.ModelProto:
    model = quantised()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.06), "other"))
    of(model, f"{EXTRACTOR}/dequantise").input[1] = "other"
    return model


def split_pair() -> onnx.ModelProto:
    """Q/DQ between a convolution and its Relu."""
    nodes, constants = pair("/extractor/Relu", "c", np.float32(0.1), np.int8(0), "r")
    return graph(
        node("Conv", ["x", "w"], ["c"], EXTRACTOR),
        *nodes,
        node("Relu", ["r"], ["s"], "/extractor/Relu"),
        node("Tanh", ["s"], ["y"], LIKELIHOOD),
        w=weights(),
        **constants,
    )


def coded_output() -> onnx.ModelProto:
    nodes, constants = pair("/extractor/Exp", "c", np.float32(0.1), np.int8(0), "y")
    return graph(node("Exp", ["x"], ["c"], "/extractor/Exp"), *nodes, **constants)


def flow_without_clip() -> onnx.ModelProto:
    model = graph(
        node("Conv", ["x", "w"], ["c"], FIRST),
        node("Tanh", ["c"], ["y"], COUPLING),
        w=weights(),
    )
    regions = {"level1.first": "fp16", "level1.coupling": "fp32"}
    made = to_half(model, Plan(regions))  # type: ignore[arg-type]
    lint(made)
    cast = next(n for n in made.graph.node if n.name == f"{FIRST}/cast_0")
    kept = [n for n in made.graph.node if n.op_type != "Clip"]
    cast.input[0] = "x"
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            weights_of_another_type,
            "Conv '/extractor/Conv' reads several types .*FLOAT16.*FLOAT.*the value's type",
        ),
        (other_way_back, "/extractor/Conv/dequantise' has another scale or zero point than Quan"),
        (split_pair, "stands between Conv '/extractor/Conv' and Relu '/extractor/Relu', which"),
        (coded_output, "DequantizeLinear '/extractor/Exp/dequantise' makes y, so its digits are"),
        (
            flow_without_clip,
            "to FP16 without a Clip before it: .*clip to 6e4, or plan level1",
        ),
        (
            lambda: replace(half(), "w.half", np.full((2, 2, 1, 1), 65504, np.float16)),
            r"has a weight of 65504 or more, where FP16 ends \(w.half\): .* plan extractor fp32",
        ),
        (without_zero_point, "/extractor/Conv/weight' has no constant zero point, .* write it"),
        (
            lambda: quantised(zero=np.uint8(0)),
            "/extractor/Conv/quantise' is uint8: .* use symmetric int8",
        ),
        (
            lambda: quantised(zero=np.int8(3)),
            "/extractor/Conv/quantise' has a zero point other than 0, .* symmetric int8",
        ),
        (int32_bias, "/extractor/bias' reads int32, .* keep the bias in float"),
        (computed_scale, "/extractor/Conv/quantise' has no constant scale; quantise with"),
        (
            lambda: quantised(scale=np.float32(0)),
            "/extractor/Conv/quantise' has a scale that is not positive",
        ),
        (
            lambda: quantised(weight_scale=np.float32([0.1, -0.1])),
            "/extractor/Conv/weight' has a scale that is not positive",
        ),
        (
            lambda: quantised(axis=1),
            "/extractor/Conv/weight' has scales along axis 1, but Conv '/extractor/Conv' has its "
            "output channels along 0; write axis=0",
        ),
        (lambda: product("Gemm", 1, transB=1), "/head/weight' has scales along axis 1, .*axis=0"),
        (lambda: product("Gemm", 0), "/head/weight' has scales along axis 0, .*axis=1"),
        (lambda: product("MatMul", 0), "/head/weight' has scales along axis 0, .*axis=1"),
        (scales_of_a_value, "/extractor/Conv/quantise' has 2 scales for a value; give it one"),
        (uneven_scales, r"/extractor/Conv/weight' has 3 scales for weights \(2, 2, 1, 1\)"),
        (other_scale_type, "/extractor/Conv/quantise' has a scale of another type .* data's type"),
        (
            coupling_in_half,
            "Tanh '/levels.0/blocks.0/Exp' works on FP16, but the level1.coupling is FP32: .*"
            "plan level1.coupling fp32",
        ),
        (back_and_forth, "Cast 'back' casts what Cast '/extractor/Conv/cast_0' has just cast"),
        (half_output, "y is FP16; image, score and map keep their types: plan the likelihood"),
        (zero_divisor, "Div '/extractor/Div' divides by what FP16 rounds to 0; plan extractor"),
        (
            lambda: half("bf16"),
            "computes in BF16, which OpenVINO alone has: use --target openvino, or fp16",
        ),
        (lambda: version(half(), 19), "operator sets .*, expected only 17;"),
        (lambda: version(quantised(), 19), "operator sets .*, expected only 17;"),
        (
            lambda: version(quantised_half(), 17),
            "operator sets .*, expected only 19 for Q/DQ with FP16 scales",
        ),
        (
            lambda: replace(half(), "w.half", np.full((2, 2, 1, 1), np.inf, np.float16)),
            "w.half holds values that are not finite",
        ),
    ],
)
def test_each_fault_names_its_node_and_the_way_out(
    broken: Callable[[], onnx.ModelProto], reason: str
) -> None:
    with pytest.raises(InputError, match=f"exported graph: .*{reason}"):
        lint(broken())


@pytest.mark.parametrize(
    ("kind", "options"), [("Gemm", {"transB": 1}), ("Gemm", {}), ("MatMul", {})]
)
def test_the_right_axis_of_every_product_passes(kind: str, options: dict[str, int]) -> None:
    lint(product(kind, 0 if options else 1, **options))


def test_bf16_needs_its_operator_set() -> None:
    with pytest.raises(InputError, match="expected only 22 for BF16"):
        lint(version(half("bf16"), 17), bf16=True)


def test_no_bf16_around_int8() -> None:
    with pytest.raises(InputError, match=r"'/extractor/Conv/quantise' stands around BF16, .* FP32"):
        lint(bf16_around_int8(), bf16=True)


def test_a_cast_of_integers_is_no_pair() -> None:
    """The pixels' own conversion stands before the first half."""
    made = helper.make_graph(
        [
            node("Cast", ["x"], ["f"], "/pixels/Cast", to=1),
            node("Cast", ["f"], ["h"], "/extractor/Relu/cast_0", to=FP16),
            node("Relu", ["h"], ["r"], "/extractor/Relu"),
            node("Cast", ["r"], ["y"], "/likelihood/cast_0", to=1),
        ],
        "sanflow",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    lint(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
