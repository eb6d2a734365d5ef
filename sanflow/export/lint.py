"""What an exported graph may contain, so that every engine runs it: refused here, not on the line.

The operators are those that ONNX Runtime, OpenVINO and TensorRT (8.6 to 11) all implement natively
in FP32, without Log and Softplus, which give other bits in other slots of a batch (exact.py). The
limits are TensorRT's: TopK of at most 3840 values, no antialiased or cubic resize, no dynamic
shapes. Types have rules of their own (lint_types.py), and so has int8 (lint_coding.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, shape_inference

from ..errors import InputError
from ..model.config import MOST_SORTED
from . import opset
from .fold import Value, constants_of, skeleton
from .lint_types import check_types
from .refuse import named, require

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
FRAMES = ("align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric")
PADS = ("constant", "reflect")
MAX_BYTES = 2**31 - 1


def lint(model: onnx.ModelProto, *, uint8: bool = False, bf16: bool = False) -> None:
    """Raise InputError naming the first thing in the graph that some engine would refuse.

    `uint8` allows Q/DQ of uint8 and `bf16` BF16, in graphs that only a CPU engine will read.
    """
    size = model.ByteSize()
    require(size <= MAX_BYTES, f"{size} bytes, the limit is {MAX_BYTES}; use a smaller extractor")
    for tensor in model.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
        require(not external, f"{tensor.name} keeps its data in another file; store it inside")
    _check_names(model)
    constants = constants_of(model)
    for name, values in constants.items():
        finite = values.dtype.kind in "iub" or bool(np.isfinite(values).all())
        require(finite, f"{name} holds values that are not finite; train the run again")
    for node in model.graph.node:
        _check_node(node, constants)
    bare = skeleton(model, model.graph.node, constants)
    try:
        check_types(model, bare, constants, uint8=uint8, bf16=bf16)
        onnx.checker.check_model(bare, full_check=True)
        inferred = shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise InputError(f"exported graph: not valid ONNX: {error}") from error
    for info in [*model.graph.input, *inferred.graph.value_info, *model.graph.output]:
        _check_static(info)
    small = {
        info.name
        for info in model.graph.input
        if info.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    }
    for node in model.graph.node:
        converted = node.op_type == "Cast" or not small & set(node.input)
        require(converted, f"{named(node)} works on uint8; only Cast may")


def check_interface(model: onnx.ModelProto) -> None:
    """Raise InputError unless the graph has the inputs and outputs that a bundle promises.

    Parsers take damaged bytes for an empty network, and bind by name: a renamed output is found
    on the device, or never.
    """
    found = {
        "inputs": list(map(_described, model.graph.input)),
        "outputs": list(map(_described, model.graph.output)),
    }
    sizes = [d.dim_value for i in model.graph.input for d in i.type.tensor_type.shape.dim]
    batch, height, width = sizes[:3] if len(sizes) == 4 else ("N", "H", "W")
    wanted = {
        "inputs": [f"image UINT8 ({batch}, {height}, {width}, 3)"],
        "outputs": [f"score FLOAT ({batch})", f"map FLOAT ({batch}, {height}, {width})"],
    }
    for side, tensors in found.items():
        require(
            tensors == wanted[side],
            f"{side} are {', '.join(tensors) or 'none'}, expected {', '.join(wanted[side])}; write "
            "the graph with sanflow export",
        )


def _described(info: onnx.ValueInfoProto) -> str:
    tensor = info.type.tensor_type
    sizes = ", ".join(str(d.dim_value or d.dim_param or "?") for d in tensor.shape.dim)
    return f"{info.name} {onnx.TensorProto.DataType.Name(tensor.elem_type)} ({sizes})"


def _check_names(model: onnx.ModelProto) -> None:
    nodes = model.graph.node
    names = [node.name for node in nodes]
    require(
        len(set(names)) == len(names) and all(names),
        f"node names are not unique: {_twice(names)}; name every node once",
    )
    values = [value.name for value in (*model.graph.input, *model.graph.initializer)]
    values += [name for node in nodes for name in node.output if name]
    require(
        len(set(values)) == len(values),
        f"value names are not unique: {_twice(values)}; name every value once",
    )


def _twice(names: Sequence[str]) -> str:
    return repr(next((name for name in names if not name or names.count(name) > 1), ""))


def _check_node(node: onnx.NodeProto, constants: Mapping[str, Value]) -> None:
    domain = node.domain not in ("", "ai.onnx")
    require(
        not domain,
        f"{named(node)} is of the domain {node.domain}, which only its own engine has; never save "
        "a graph that an engine has optimised",
    )
    require(
        node.op_type in OPERATORS,
        f"{named(node)} is not an operator that all engines have; write it with those that they "
        "do (export/lint.py lists them)",
    )
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "TopK":
        count = constants.get(node.input[1])
        require(count is not None, f"{named(node)} computes how many values it takes; fix it")
        most = 0 if count is None else int(count.item())
        require(
            most <= MOST_SORTED,
            f"{named(node)} takes the {most} largest values, TensorRT allows {MOST_SORTED}: "
            "use a smaller top_fraction or image",
        )
    if node.op_type == "Resize":
        require(
            attributes.get("mode", b"nearest") in (b"linear", b"nearest"),
            f"{named(node)} is neither linear nor nearest, as TensorRT 10 needs it; use one",
        )
        require(
            not attributes.get("antialias"),
            f"{named(node)} is antialiased, which TensorRT has not; resize without a filter",
        )
        frame = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
        require(
            frame in FRAMES,
            f"{named(node)} has the coordinates {frame}, expected {', '.join(FRAMES)}",
        )
    if node.op_type == "Pad":
        mode = attributes.get("mode", b"constant").decode()
        require(
            mode in PADS, f"{named(node)} pads by {mode}, TensorRT by {' or '.join(PADS)}; use one"
        )


def _check_static(info: onnx.ValueInfoProto) -> None:
    dims = info.type.tensor_type.shape.dim
    static = all(d.HasField("dim_value") and d.dim_value > 0 for d in dims)
    require(static, f"the shape of {info.name} is not static; export with a fixed batch and size")
