"""Clean-up of a traced ONNX graph: what does not depend on the image is computed once, here.

The tracer leaves the arithmetic of shapes and of weights in the graph: slices of the first layer's
weights, the position code's products, softplus of the global scales. Every node whose inputs are
all constant is run by ONNX Runtime, one node at a time with its optimiser off, so no operator
outside the standard can slip in. A node whose result is much larger than its inputs stays: that
keeps the position code's two separable terms in the file instead of their sum over the whole map
(a tenth of the size; every engine makes the sum itself when it loads the graph).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

Value = NDArray[np.generic]
Types = dict[str, tuple[int, tuple[int, ...] | None]]
"""Element type and static shape (None where unknown) by value name."""

_SMALL = 4096
"""Bytes below which a constant may grow; shapes and axes are far smaller."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function without constant nodes, no-ops, dead ends and traces of the machine.

    Repeated until nothing changes: shapes that were arithmetic become known by folding it.
    """
    constants = constants_of(model)
    nodes = list(model.graph.node)
    while True:
        kept = _fold_once(nodes, constants, model)
        if len(kept) == len(nodes):
            break
        nodes = kept
    used = dict.fromkeys(name for node in nodes for name in node.input if name in constants)
    folded = _model(model, nodes)
    types = _types(skeleton(model, nodes, constants))
    for output in folded.graph.output:  # the tracer names their sizes instead of giving them
        output.CopyFrom(helper.make_tensor_value_info(output.name, *types[output.name]))
    folded.graph.initializer.extend(_tensor(name, constants[name]) for name in used)
    return folded


def constants_of(model: onnx.ModelProto) -> dict[str, Value]:
    """The initialisers as arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def skeleton(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Value]
) -> onnx.ModelProto:
    """The model with these nodes, its large constants turned into inputs.

    Shapes can be inferred and nodes checked on it without copying hundreds of megabytes.
    """
    bare = _model(model, nodes)
    for name, value in constants.items():
        if value.nbytes > _SMALL:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            bare.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
        else:
            bare.graph.initializer.append(_tensor(name, value))
    return bare


def element_types(bare: onnx.ModelProto) -> dict[str, int]:
    """Element types by value name; what cannot be inferred, the checker will name, is missing."""
    graph = shape_inference.infer_shapes(bare).graph
    types = {t.name: t.data_type for t in graph.initializer}
    for info in [*graph.input, *graph.value_info, *graph.output]:
        types[info.name] = info.type.tensor_type.elem_type
    return types


def _fold_once(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, Value], model: onnx.ModelProto
) -> list[onnx.NodeProto]:
    """One pass: adds to `constants` what it computes, and returns the nodes that are left."""
    types = _types(skeleton(model, nodes, constants))
    outputs = {output.name for output in model.graph.output}
    alias: dict[str, str] = {}
    kept = []
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = alias.get(name, name)
        if _does_nothing(node, types) and node.output[0] not in outputs:
            alias[node.output[0]] = node.input[0]
            continue
        values = _evaluate(node, constants, types, model)
        if values is None:
            kept.append(node)
        else:
            constants.update(zip(node.output, values, strict=True))
    needed = set(outputs)
    alive = []
    for node in reversed(kept):
        if needed & set(node.output):
            needed |= set(node.input)
            alive.append(node)
    return alive[::-1]


def _types(model: onnx.ModelProto) -> Types:
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types: Types = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
    for info in [*graph.input, *graph.value_info, *graph.output]:
        tensor = info.type.tensor_type
        known = all(d.HasField("dim_value") for d in tensor.shape.dim)
        shape = tuple(d.dim_value for d in tensor.shape.dim) if known else None
        types[info.name] = (tensor.elem_type, shape)
    return types


def _does_nothing(node: onnx.NodeProto, types: Types) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type != "Cast" or node.input[0] not in types:
        return False
    return bool(types[node.input[0]][0] == helper.get_node_attr_value(node, "to"))


def _evaluate(
    node: onnx.NodeProto, constants: Mapping[str, Value], types: Types, model: onnx.ModelProto
) -> list[Value] | None:
    """The node's results if they are constant and not much larger than what they come from."""
    if node.op_type == "Constant":
        return [numpy_helper.to_array(helper.get_node_attr_value(node, "value"))]
    if node.op_type == "Shape" and node.input[0] not in constants:
        shape = types.get(node.input[0], (0, None))[1]
        return None if shape is None else [np.array(shape, np.int64)]
    names = [name for name in node.input if name]
    if not all(name in constants for name in names):
        return None
    feeds = {name: constants[name] for name in names}
    values = _run(node, feeds, model)
    size = sum(value.nbytes for value in values)
    return None if size > max(_SMALL, sum(v.nbytes for v in feeds.values())) else values


def _run(node: onnx.NodeProto, feeds: Mapping[str, Value], model: onnx.ModelProto) -> list[Value]:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        single.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, feeds)]


def _model(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """These nodes with the model's inputs, outputs and versions; no documentation strings."""
    for node in nodes:
        node.ClearField("doc_string")
    ends = [
        [onnx.ValueInfoProto(name=info.name, type=info.type) for info in infos]
        for infos in (model.graph.input, model.graph.output)
    ]
    return helper.make_model(
        helper.make_graph(nodes, "sanflow", ends[0], ends[1]),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name="sanflow",
    )


def _tensor(name: str, value: Value) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, order="C"), name)
