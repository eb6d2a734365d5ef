"""What a typed graph may contain: FP16 and BF16 where every engine reads them alike.

TensorRT takes a graph's types as they are written; what int8 needs has rules of its own
(lint_coding.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, defs

from . import opset
from .fold import Value, element_types
from .lint_coding import QDQ, check_channels, check_coding, check_pairs
from .plan import MOVES, region_of
from .refuse import named, require

_HALVES: dict[int, str] = {TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16"}
_FLOATS = {TensorProto.FLOAT, *_HALVES}
_LARGEST = np.finfo(np.float16).max
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
        require(
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
            _check_cast(node, types, makers, constants)
        _check_mixed(node, types)
        if node.op_type in QDQ:
            check_coding(node, types, constants, uint8=uint8)
            check_channels(node, constants, readers)
    check_pairs(model, constants, makers, readers, uint8=uint8)


def _check_opset(model: onnx.ModelProto, kinds: set[int], types: Mapping[str, int]) -> None:
    scales = {types.get(n.input[1]) for n in model.graph.node if n.op_type in QDQ}
    wanted, why = opset.PLAIN, ""
    if TensorProto.FLOAT16 in scales:
        wanted, why = opset.HALF_QDQ, " for Q/DQ with FP16 scales"
    if TensorProto.BFLOAT16 in kinds:
        wanted, why = opset.BFLOAT, " for BF16"
    found = [(entry.domain, entry.version) for entry in model.opset_import]
    require(
        found == [("", wanted)],
        f"operator sets {found}, expected only {wanted}{why}; write the graph with sanflow export",
    )
    require(
        model.ir_version == opset.IR_VERSIONS[wanted],
        f"file version {model.ir_version}, expected {opset.IR_VERSIONS[wanted]}, the oldest that "
        f"may hold operator set {wanted}; write the graph with sanflow export",
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
    require(
        bf16 or TensorProto.BFLOAT16 not in kinds,
        f"{named(node)} computes in BF16, which OpenVINO alone has: use --target openvino, or fp16",
    )
    stays = region in ("input", "likelihood") or region.endswith(".coupling")
    require(
        node.op_type in _FREE or not stays,
        f"{named(node)} works on {kind}, but the {region} is FP32: halves overflow there or lose "
        f"what a verdict rests on; plan {region} fp32",
    )
    for name in node.input:
        values = constants.get(name, np.zeros(0))
        cut = values.dtype == np.float16 and (np.abs(values) >= _LARGEST).any()
        require(
            not cut,
            f"{named(node)} has a weight of 65504 or more, where FP16 ends ({name}): it was cut "
            f"off; plan {region} fp32",
        )
    if node.op_type == "Div" and node.input[1] in constants:
        require(
            bool(np.all(constants[node.input[1]] != np.zeros((), np.float32))),
            f"{named(node)} divides by what {kind} rounds to 0; plan {region} fp32",
        )


def _check_mixed(node: onnx.NodeProto, types: Mapping[str, int]) -> None:
    """Inputs that the operator wants of one type: engines refuse others, or convert as they like.

    The scale of a DequantizeLinear is the type of what it makes, so a product may get FP32 weights
    beside an FP16 value.
    """
    formal = defs.get_schema(node.op_type, opset.HALF_QDQ).inputs
    kinds: dict[str, dict[int, str]] = {}
    for index, name in enumerate(node.input):
        if name in types:
            form = formal[min(index, len(formal) - 1)].type_str
            kinds.setdefault(form, {}).setdefault(types[name], name)
    for found in kinds.values():
        listed = ", ".join(
            f"{name} {TensorProto.DataType.Name(kind)}" for kind, name in found.items()
        )
        require(
            len(found) <= 1 or node.op_type in QDQ,
            f"{named(node)} reads several types ({listed}); cast them, or give the scales of its "
            "weights the value's type",
        )


def _check_cast(
    node: onnx.NodeProto,
    types: Mapping[str, int],
    makers: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, Value],
) -> None:
    before = makers.get(node.input[0])
    chain = before is not None and before.op_type == "Cast" and types[before.input[0]] in _FLOATS
    require(
        not chain,
        f"{named(node)} casts what {named(before or node)} has just cast; give its reader the "
        "value as it was",
    )
    into = types[node.output[0]] == TensorProto.FLOAT16 and region_of(node.name).startswith("level")
    bounds = [constants.get(name) for name in before.input[1:]] if before is not None else []
    clipped = len(bounds) == 2 and all(
        bound is not None and bool(np.abs(bound) < _LARGEST) for bound in bounds
    )
    require(
        not into or (before is not None and before.op_type == "Clip" and clipped),
        f"{named(node)} converts what a flow makes to FP16 without a Clip before it: anomalies "
        f"overflow there; clip to 6e4, or plan {region_of(node.name)} fp32",
    )
