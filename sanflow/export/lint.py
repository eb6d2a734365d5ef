"""What an exported graph may contain, so that every engine runs it: refused here, not on the line.

The operators are those that ONNX Runtime, OpenVINO and TensorRT (8.6 to 11) all implement natively
in FP32, without Log and Softplus, which give other bits in other slots of a batch (exact.py). The
limits are TensorRT's: TopK of at most 3840 values, no antialiased or cubic resize, no dynamic
shapes. Types have rules of their own (lint_types.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, shape_inference

from ..errors import InputError
from . import opset
from .fold import Value, constants_of, skeleton
from .lint_types import check_types

OPSET = opset.PLAIN
IR_VERSION = opset.IR_VERSIONS[OPSET]
# fmt: off
OPERATORS = frozenset({
    "Add", "Atan", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv",
    "DequantizeLinear", "Div", "Erf", "Exp", "Flatten", "Gather", "Gemm", "GlobalAveragePool",
    "HardSigmoid", "HardSwish", "LayerNormalization", "MatMul", "MaxPool", "Mul", "Neg", "Pad",
    "QuantizeLinear", "Reciprocal", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Resize",
    "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "TopK", "Transpose",
    "Unsqueeze",
})
# fmt: on
MAX_TOPK = 3840
MAX_BYTES = 2**31 - 1


def lint(model: onnx.ModelProto, *, uint8: bool = False, bf16: bool = False) -> None:
    """Raise InputError naming the first thing in the graph that some engine would refuse.

    `uint8` allows Q/DQ of uint8 and `bf16` BF16, in graphs that only a CPU engine will read.
    """
    _require(model.ByteSize() <= MAX_BYTES, f"{model.ByteSize()} bytes, the limit is {MAX_BYTES}")
    for tensor in model.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
        _require(not external, f"{tensor.name} keeps its data in another file")
    constants = constants_of(model)
    for name, values in constants.items():
        finite = values.dtype.kind in "iub" or bool(np.isfinite(values).all())
        _require(finite, f"{name} holds values that are not finite; train the run again")
    names = [node.name for node in model.graph.node]
    _require(len(set(names)) == len(names) and all(names), "node names are not unique")
    bare = skeleton(model, model.graph.node, constants)
    try:
        check_types(model, bare, constants, uint8=uint8, bf16=bf16)
        onnx.checker.check_model(bare, full_check=True)
        inferred = shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise InputError(f"exported graph: not valid ONNX: {error}") from error
    for node in model.graph.node:
        _check_node(node, constants)
    for info in [*model.graph.input, *inferred.graph.value_info, *model.graph.output]:
        _check_static(info)
    small = {
        info.name
        for info in model.graph.input
        if info.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in model.graph.node:
        converted = node.op_type == "Cast" or not small & set(node.input)
        _require(converted, f"{node.op_type} {node.name!r} works on uint8; only Cast may")


def _check_node(node: onnx.NodeProto, constants: Mapping[str, Value]) -> None:
    label = f"{node.op_type} {node.name!r}"
    _require(node.op_type in OPERATORS, f"{label} is not an operator that all engines have")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "TopK":
        count = int(constants[node.input[1]].item())
        _require(
            count <= MAX_TOPK,
            f"{label} takes the {count} largest values, TensorRT allows {MAX_TOPK}: "
            "use a smaller top_fraction or image",
        )
    if node.op_type == "Resize":
        plain = attributes["mode"] in (b"linear", b"nearest") and not attributes.get("antialias")
        _require(plain, f"{label} is neither linear nor nearest, or filtered")


def _check_static(info: onnx.ValueInfoProto) -> None:
    dims = info.type.tensor_type.shape.dim
    static = all(d.HasField("dim_value") and d.dim_value > 0 for d in dims)
    _require(static, f"the shape of {info.name} is not static")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"exported graph: {message}")
