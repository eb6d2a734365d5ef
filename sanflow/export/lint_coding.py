"""What int8 may look like in a graph, so that TensorRT and CPU engines compute the same.

TensorRT takes some wrong graphs without a word: uint8 with zero point 0 is read as int8, so
everything above half the range saturates; per-channel scales along the wrong axis build; scales
around an output throw its digits away. All of them are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from .fold import Value
from .refuse import named, require

QDQ = ("QuantizeLinear", "DequantizeLinear")
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_JOINED = frozenset({"BatchNormalization", "Relu"})
"""What TensorRT computes in the kernel of the product before it."""


def check_coding(
    node: onnx.NodeProto, types: Mapping[str, int], constants: Mapping[str, Value], *, uint8: bool
) -> None:
    """Integer type, zero point and scale of a QuantizeLinear or DequantizeLinear."""
    label = named(node)
    require(
        types.get(node.input[0]) != TensorProto.INT32,
        f"{label} reads int32, which TensorRT refuses; keep the bias in float",
    )
    require(
        len(node.input) == 3 and node.input[2] in constants,
        f"{label} has no constant zero point, which is uint8 in ONNX, int8 in TensorRT; write it",
    )
    zero, scale = constants[node.input[2]], constants.get(node.input[1])
    require(
        zero.dtype == np.int8 or (uint8 and zero.dtype == np.uint8),
        f"{label} is {zero.dtype}: TensorRT reads it as int8 and saturates above half the range; "
        "use symmetric int8",
    )
    require(
        zero.dtype == np.uint8 or not zero.any(),
        f"{label} has a zero point other than 0, which TensorRT refuses; use symmetric int8",
    )
    require(scale is not None, f"{label} has no constant scale; quantise with constant scales")
    values = np.asarray(scale, np.float32)
    require(
        bool(np.isfinite(values).all() and (values > 0).all()),
        f"{label} has a scale that is not positive and finite; a range of 0 needs a scale of 1",
    )
    require(
        types[node.input[1]] != TensorProto.BFLOAT16,
        f"{label} stands around BF16, which OpenVINO computes wrongly; quantise FP32 values",
    )
    if node.op_type == "QuantizeLinear" and node.input[0] in types:
        require(
            types[node.input[0]] == types[node.input[1]],
            f"{label} has a scale of another type than its data; give both the data's type",
        )


def check_channels(
    node: onnx.NodeProto,
    constants: Mapping[str, Value],
    readers: Mapping[str, list[onnx.NodeProto]],
) -> None:
    """Scales per channel: of weights only, and along the output channels of who reads them."""
    scale = constants[node.input[1]]
    if scale.size == 1:
        return
    label, weight = named(node), constants.get(node.input[0])
    require(weight is not None, f"{label} has {scale.size} scales for a value; give it one")
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    for reader in readers.get(node.output[0], []):
        wanted = _output_axis(reader)
        require(
            axis == wanted,
            f"{label} has scales along axis {axis}, but {named(reader)} has its output channels "
            f"along {wanted}; write axis={wanted}",
        )
    shape = () if weight is None else weight.shape
    require(
        axis < len(shape) and shape[axis] == scale.size,
        f"{label} has {scale.size} scales for weights {shape} along axis {axis}; give one each",
    )


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return 0 if node.op_type == "Gemm" and options.get("transB") else 1


def check_pairs(
    model: onnx.ModelProto,
    constants: Mapping[str, Value],
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    *,
    uint8: bool,
) -> None:
    """Pairs that mean one thing, stand where kernels are joined around them, and not at the end."""
    for node in model.graph.node:
        coder = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if coder is None or coder.op_type != "QuantizeLinear":
            continue
        same = all(
            np.array_equal(np.float32(constants[one]), np.float32(constants[other]))
            for one, other in zip(coder.input[1:], node.input[1:], strict=True)
        )
        require(
            same,
            f"{named(node)} has another scale or zero point than {named(coder)}, which it undoes; "
            "give both the same",
        )
        source = makers.get(coder.input[0])
        after = [n for n in readers.get(node.output[0], ()) if n.op_type in _JOINED]
        split = source is not None and source.op_type in _PRODUCTS and bool(after)
        # On CPUs the pair is what joins the two.
        require(
            uint8 or not split,
            f"{named(coder)} stands between {named(source or node)} and "
            f"{named(after[0] if after else node)}, which TensorRT joins only without it; quantise "
            "what the latter makes",
        )
    for info in model.graph.output:
        maker = makers.get(info.name)
        require(
            maker is None or maker.op_type not in QDQ,
            f"{named(maker or node)} makes {info.name}, so its digits are lost; leave it float",
        )
