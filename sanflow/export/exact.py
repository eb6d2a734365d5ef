"""One image, the same bits: operators whose result depends on where an image lies are rewritten.

ONNX Runtime's Softplus takes whole vectors through one formula and the last few values through
another, so a value depends on its place in memory, hence on the image's slot in a batch. Its means
sum in an order that depends on the batch size and the number of threads. Both have equivalents made
of operators that treat every image alike (its Log has none, so the model does not use it):

    softplus(x) = relu(x) + log1p(u), u = exp(-|x|);   log1p(u) = 2 artanh t, t = u / (u + 2)
    mean over axis 1 of C values = 1x1 convolution with the weights 1 / C

t is at most 1/3, so seven terms of artanh are exact to FP32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from .fold import constants_of, skeleton

_LOG1P = [2 / (2 * power + 1) for power in range(7)]
"""log1p(u) / t as a polynomial in t^2, from the constant term up."""


def exact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with Softplus and the means over axis 1 rewritten."""
    bare = skeleton(model, model.graph.node, constants_of(model))
    inferred = shape_inference.infer_shapes(bare, strict_mode=True).graph
    infos = [*inferred.input, *inferred.value_info]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Softplus":
            nodes += _softplus(node, model.graph)
        elif _is_mean(node):
            nodes += _mean(node, shapes[node.input[0]], model.graph)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _softplus(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    steps = _Steps(node, graph)
    x = node.input[0]
    positive = steps("Relu", x)
    negative = steps("Relu", steps("Neg", x))
    u = steps("Exp", steps("Neg", steps("Add", positive, negative)))
    t = steps("Div", u, steps("Add", u, steps.constant(2)))
    square = steps("Mul", t, t)
    series = steps.constant(_LOG1P[-1])
    for coefficient in _LOG1P[-2::-1]:
        series = steps("Add", steps("Mul", series, square), steps.constant(coefficient))
    steps.end("Add", positive, steps("Mul", series, t))
    return steps.nodes


def _is_mean(node: onnx.NodeProto) -> bool:
    return node.op_type == "ReduceMean" and list(helper.get_node_attr_value(node, "axes")) == [1]


def _mean(node: onnx.NodeProto, shape: list[int], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    steps = _Steps(node, graph)
    x = node.input[0]
    if len(shape) == 2:
        x = steps("Unsqueeze", x, steps.constant(np.array([2, 3], np.int64)))
    mean = steps("Conv", x, steps.constant(np.full((1, shape[1], 1, 1), 1 / shape[1], np.float32)))
    keep = helper.get_node_attr_value(node, "keepdims")
    axes = [axis for axis in (1, 2, 3) if axis >= len(shape) or (axis == 1 and not keep)]
    if axes:
        steps.end("Squeeze", mean, steps.constant(np.array(axes, np.int64)))
    else:
        steps.nodes[-1].output[:] = node.output
    return steps.nodes


class _Steps:
    """Nodes that take the place of one, named after it."""

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._node = node
        self._graph = graph
        self._count = 0

    def __call__(self, kind: str, *inputs: str) -> str:
        name = self._name(kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name))
        return name

    def end(self, kind: str, *inputs: str) -> None:
        """The last step: its output has the name that the replaced node's had."""
        self.nodes.append(helper.make_node(kind, inputs, self._node.output, self._node.name))

    def constant(self, value: float | np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = self._name("constant")
        array = value if isinstance(value, np.ndarray) else np.float32(value)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._node.name}/{kind.lower()}_{self._count}"
