"""What a typed graph may contain: FP16, BF16 and int8 where every engine reads them alike.

TensorRT takes a graph's types as they are written, and some wrong ones without a word: uint8 with
zero point 0 is read as int8, so everything above half the range saturates; per-channel scales along
the wrong axis build. Both are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import InputError
from . import opset
from .fold import Value, element_types
from .plan import MOVES, region_of

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_HALVES: dict[int, str] = {TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16"}
_FLOATS = {TensorProto.FLOAT, *_HALVES}
_FREE = MOVES | {"Cast", "QuantizeLinear"}
"""What computes nothing in the type it reads."""


def check_types(
    model: onnx.ModelProto,
    bare: onnx.ModelProto,
    constants: Mapping[str, Value],
    *,
    uint8: bool,
    bf16: bool,
) -> None:
    """Raise InputError naming the first node whose types some engine would refuse or misread.

    `bare` is the model without its large constants. `uint8` allows Q/DQ of uint8, `bf16` allows
    BF16: for graphs that TensorRT will never see.
    """
    types = element_types(bare)
    _check_opset(model, set(types.values()), types)
    for info in [*model.graph.input, *model.graph.output]:
        kind = types[info.name]
        _require(
            kind not in _HALVES,
            f"{info.name} is {_HALVES.get(kind)}; image, score and map keep their types: plan the "
            "likelihood fp32",
        )
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        _check_halves(node, types, constants, bf16)
        if node.op_type == "Cast":
            _check_cast(node, types, makers)
        if node.op_type in _QDQ:
            _check_coding(node, types, constants, uint8)
            _check_channels(node, constants, readers)


def _check_opset(model: onnx.ModelProto, kinds: set[int], types: Mapping[str, int]) -> None:
    scales = {types.get(n.input[1]) for n in model.graph.node if n.op_type in _QDQ}
    wanted, why = opset.PLAIN, ""
    if TensorProto.FLOAT16 in scales:
        wanted, why = opset.HALF_QDQ, " for Q/DQ with FP16 scales"
    if TensorProto.BFLOAT16 in kinds:
        wanted, why = opset.BFLOAT, " for BF16"
    found = [(entry.domain, entry.version) for entry in model.opset_import]
    _require(
        found == [("", wanted)],
        f"operator sets {found}, expected only {wanted}{why}; write the graph with sanflow export",
    )


def _check_halves(
    node: onnx.NodeProto, types: Mapping[str, int], constants: Mapping[str, Value], bf16: bool
) -> None:
    names = [*node.input, *node.output]
    kinds = {types[name] for name in names if types.get(name) in _HALVES}
    if not kinds:
        return
    region = region_of(node.name)
    kind = next(name for key, name in _HALVES.items() if key in kinds)
    _require(
        bf16 or TensorProto.BFLOAT16 not in kinds,
        f"{_label(node)} computes in BF16, which OpenVINO alone has: use --target openvino, or "
        "fp16",
    )
    stays = region in ("input", "likelihood") or region.endswith(".coupling")
    _require(
        node.op_type in _FREE or not stays,
        f"{_label(node)} works on {kind}, but the {region} is FP32: halves overflow there or lose "
        f"what a verdict rests on; plan {region} fp32",
    )
    if node.op_type == "Div" and node.input[1] in constants:
        _require(
            bool(np.all(constants[node.input[1]] != np.zeros((), np.float32))),
            f"{_label(node)} divides by what {kind} rounds to 0; plan {region} fp32",
        )


def _check_cast(
    node: onnx.NodeProto, types: Mapping[str, int], makers: Mapping[str, onnx.NodeProto]
) -> None:
    before = makers.get(node.input[0])
    chain = before is not None and before.op_type == "Cast" and types[before.input[0]] in _FLOATS
    _require(
        not chain,
        f"{_label(node)} casts what {_label(before or node)} has just cast; give its reader the "
        "value as it was",
    )


def _check_coding(
    node: onnx.NodeProto, types: Mapping[str, int], constants: Mapping[str, Value], uint8: bool
) -> None:
    """Integer type, zero point and scale of a QuantizeLinear or DequantizeLinear."""
    label = _label(node)
    _require(
        types.get(node.input[0]) != TensorProto.INT32,
        f"{label} reads int32, which TensorRT refuses; keep the bias in float",
    )
    _require(
        len(node.input) == 3 and node.input[2] in constants,
        f"{label} has no constant zero point, which is uint8 in ONNX, int8 in TensorRT; write it",
    )
    zero, scale = constants[node.input[2]], constants.get(node.input[1])
    _require(
        zero.dtype == np.int8 or (uint8 and zero.dtype == np.uint8),
        f"{label} is {zero.dtype}: TensorRT reads it as int8 and saturates above half the range; "
        "use symmetric int8",
    )
    _require(
        zero.dtype == np.uint8 or not zero.any(),
        f"{label} has a zero point other than 0, which TensorRT refuses; use symmetric int8",
    )
    _require(scale is not None, f"{label} has no constant scale; quantise with constant scales")
    values = np.asarray(scale, np.float32)
    _require(
        bool(np.isfinite(values).all() and (values > 0).all()),
        f"{label} has a scale that is not positive and finite; a range of 0 needs a scale of 1",
    )
    _require(
        types[node.input[1]] != TensorProto.BFLOAT16,
        f"{label} stands around BF16, which OpenVINO computes wrongly; quantise FP32 values",
    )
    if node.op_type == "QuantizeLinear" and node.input[0] in types:
        _require(
            types[node.input[0]] == types[node.input[1]],
            f"{label} has a scale of another type than its data; give both the data's type",
        )


def _check_channels(
    node: onnx.NodeProto,
    constants: Mapping[str, Value],
    readers: Mapping[str, list[onnx.NodeProto]],
) -> None:
    """Scales per channel: of weights only, and along the output channels of who reads them."""
    scale = constants[node.input[1]]
    if scale.size == 1:
        return
    label, weight = _label(node), constants.get(node.input[0])
    _require(weight is not None, f"{label} has {scale.size} scales for a value; give it one")
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    for reader in readers.get(node.output[0], []):
        wanted = _output_axis(reader)
        _require(
            axis == wanted,
            f"{label} has scales along axis {axis}, but {_label(reader)} has its output channels "
            f"along {wanted}; write axis={wanted}",
        )
    shape = () if weight is None else weight.shape
    _require(
        axis < len(shape) and shape[axis] == scale.size,
        f"{label} has {scale.size} scales for weights {shape} along axis {axis}; give one each",
    )


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return 0 if node.op_type == "Gemm" and options.get("transB") else 1


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"exported graph: {message}")
