"""Pixels as whole numbers: a convolution of x - mean becomes one of x - 128 and a bias.

int8 holds x - 128 exactly, so quantising a network's input costs nothing, where rounding x - mean
to 8 bits alone moves the features of a fine-grained extractor by a tenth of their deviation. It
holds only where no zeros are padded: there, zero means the mean.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .fold import Value, constants_of
from .plan import Plan, region_of

CENTRE = 128


def whole_pixels(graph: onnx.ModelProto, plan: Plan) -> dict[str, tuple[str, NDArray[np.float64]]]:
    """Change `graph` in place where it is int8; by the name of x - 128: that of x - mean, and
    mean - 128 (C,).
    """
    constants = constants_of(graph)
    makers = {name: node for node in graph.graph.node for name in node.output}
    made = {}
    for node in list(graph.graph.node):
        pad = makers.get(node.input[0]) if node.op_type == "Conv" else None
        less = makers.get(pad.input[0]) if pad is not None and _reflects(pad) else None
        if pad is None or less is None or not _centred(less, constants, makers):
            continue
        if plan.of(region_of(node.name)) != "int8":
            continue
        if any(a.name == "pads" and any(a.ints) for a in node.attribute):
            continue
        weight = constants[node.input[1]].astype(np.float64)
        shift = constants[less.input[1]].astype(np.float64).reshape(-1) - CENTRE
        old = constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight))
        bias = (old - weight.sum(axis=(2, 3)) @ shift).astype(np.float32)
        name, label = f"{pad.name}/whole", f"{node.name}/whole_bias"
        centre = np.array(CENTRE, np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(bias, label))
        graph.graph.initializer.append(numpy_helper.from_array(centre, f"{pad.name}/centre"))
        inputs = [less.input[0], f"{pad.name}/centre"]
        at = list(graph.graph.node).index(pad)
        graph.graph.node.insert(at, helper.make_node("Sub", inputs, [name], name))
        made[name] = (less.output[0], shift)
        pad.input[0] = name
        node.input[:] = [*node.input[:2], label]
    return made


def _reflects(node: onnx.NodeProto) -> bool:
    modes = [a.s for a in node.attribute if a.name == "mode"]
    return node.op_type == "Pad" and modes in ([b"reflect"], [b"edge"])


def _centred(
    node: onnx.NodeProto, constants: dict[str, Value], makers: dict[str, onnx.NodeProto]
) -> bool:
    """Whether a node takes a constant off each channel of the pixels."""
    if node.op_type != "Sub" or node.input[1] not in constants:
        return False
    before = node
    while before.op_type in ("Sub", "Transpose"):
        if before.input[0] not in makers:
            return False
        before = makers[before.input[0]]
    return before.op_type == "Cast"
