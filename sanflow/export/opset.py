"""The operator sets that are written: the oldest one that has what the graph needs.

    17  FP32, FP16, and Q/DQ around FP32: every engine reads it, TensorRT since 8.6
    19  Q/DQ around FP16
    22  BF16 products; no engine but OpenVINO is given these

Since 18, means and maxima take their axes as an input, and Split says how many parts it makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

PLAIN, HALF_QDQ, BFLOAT = 17, 19, 22
IR_VERSIONS = {PLAIN: 8, HALF_QDQ: 9, BFLOAT: 10}
"""The oldest file version that may hold each operator set."""


def raise_opset(model: onnx.ModelProto, version: int) -> None:
    """Turn a graph of operator set 17 into one of a later set, in place."""
    nodes = [_newer(node, model.graph) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import[0].version = version
    model.ir_version = IR_VERSIONS[version]


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
