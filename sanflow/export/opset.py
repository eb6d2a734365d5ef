"""The operator sets that are written: 17, and 19 where Q/DQ nodes have FP16 scales.

TensorRT 8.6 and every other engine read 17; QuantizeLinear takes FP16 since 19. Between the two,
means and maxima take their axes as an input, and Split says how many parts it makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

PLAIN, TYPED = 17, 19
IR_VERSIONS = {PLAIN: 8, TYPED: 9}
"""The oldest file version that may hold each operator set."""


def to_typed(model: onnx.ModelProto) -> None:
    """Turn a graph of operator set 17 into one of 19, in place."""
    nodes = [_newer(node, model.graph) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import[0].version = TYPED
    model.ir_version = IR_VERSIONS[TYPED]


def _newer(node: onnx.NodeProto, graph: onnx.GraphProto) -> onnx.NodeProto:
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in ("ReduceMean", "ReduceMax") and "axes" in options:
        axes = _integers(graph, f"{node.name}/axes", options.pop("axes"))
        return helper.make_node(
            node.op_type, [*node.input, axes], node.output, node.name, **options
        )
    if node.op_type == "Split" and len(node.input) == 1:
        options["num_outputs"] = len(node.output)
        return helper.make_node("Split", node.input, node.output, node.name, **options)
    return node


def _integers(graph: onnx.GraphProto, name: str, values: Sequence[int]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name
