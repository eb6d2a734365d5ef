"""The ONNX graph as OpenVINO IR, every type as the graph has it: precision is chosen, not implied.

INT8 and BF16 are computed as written. FP16 regions are computed in FP32 by a CPU without FP16
arithmetic, from weights that were rounded to FP16.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from openvino import opset13 as ops


def to_ir(graph: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The bytes of model.xml and model.bin."""
    model = openvino.Core().read_model(graph.SerializeToString())
    _add_in_turn(model)
    _fold_shapes(model)
    _join_quantisers(model)
    model.validate_nodes_and_infer_types()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _add_in_turn(model: Any) -> None:
    """x + (row + column) becomes ((x + row) + 0) + column, in FP32: their map is never held.

    Compiling sums constants that meet, and holds the sum twice. So a 0 stands between them that
    compiling cannot know: the smaller one of a pixel and 0. In lower types, where each addition
    rounds, the map stays.
    """
    zero = None
    for node in model.get_ordered_ops():
        found = _terms(node)
        if found is None:
            continue
        x, row, column = found
        if zero is None:
            image = model.input(0)
            ones = [1] * len(image.get_shape())
            pixel = ops.convert(ops.slice(image, [0] * len(ones), ones, ones), "f32")
            zero = ops.minimum(pixel, np.float32(0))
        name = node.get_friendly_name()
        rows = ops.add(ops.add(x, row, name=f"{name}/row"), zero, name=f"{name}/zero")
        whole = ops.add(rows, column)
        node.output(0).replace(whole.output(0))
        whole.set_friendly_name(name)


def _terms(node: Any) -> tuple[Any, Any, Any] | None:
    """x, row and column of an FP32 addition x + (row + column) of two constants."""
    if node.get_type_name() != "Add" or not _is_fp32(node):
        return None
    for place in (0, 1):
        term = node.input_value(place).get_node()
        if term.get_type_name() == "Add":
            given = [term.input_value(0), term.input_value(1)]
            if all(one.get_node().get_type_name() == "Constant" for one in given):
                return node.input_value(1 - place), *given
    return None


def _fold_shapes(model: Any) -> None:
    """A constant in another shape is a constant, and what is less a zero point of 0 is itself.

    Reading ONNX writes both as arithmetic on shapes: a quarter of an int8 graph's nodes, which
    every start reads and folds again.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        given = [value.get_node() for value in node.input_values()]
        if kind == "Reshape" and _constant(given[0]) and _is_fp32(node):
            shaped = ops.constant(given[0].get_data().reshape(tuple(node.get_output_shape(0))))
            shaped.set_friendly_name(node.get_friendly_name())
            node.output(0).replace(shaped.output(0))
        elif kind == "Subtract" and _zero(_under(given[1])):
            node.output(0).replace(node.input_value(0))


def _join_quantisers(model: Any) -> None:
    """A quantiser and its dequantiser are one FakeQuantize, as OpenVINO's own tools write them."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Multiply" or not _constant(node.input_value(1).get_node()):
            continue
        level, zero = node.input_value(0).get_node(), np.float64(0)
        if level.get_type_name() == "Subtract":
            taken = _under(level.input_value(1).get_node())
            if not _constant(taken):
                continue
            level, zero = level.input_value(0).get_node(), taken.get_data().astype(np.float64)
        quantiser = _under(level, "Convert")
        if quantiser.get_type_name() != "FakeQuantize" or quantiser is level:
            continue
        scale = node.input_value(1).get_node().get_data().astype(np.float64)
        x, low, high, *levels = quantiser.input_values()
        ends = [(end.get_node().get_data() - zero) * scale for end in levels]
        joined = ops.fake_quantize(
            *(x, low, high),
            *(ops.constant(end.astype(np.float32)) for end in ends),
            quantiser.get_attributes()["levels"],
            name=node.get_friendly_name(),
        )
        node.output(0).replace(joined.output(0))


def _constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")


def _zero(node: Any) -> bool:
    return _constant(node) and not np.any(node.get_data())


def _under(node: Any, *changes: str) -> Any:
    """What is there before its type, or its shape, was changed."""
    while node.get_type_name() in (changes or ("Convert", "Reshape")):
        node = node.input_value(0).get_node()
    return node


def _is_fp32(node: Any) -> bool:
    return bool(node.get_output_element_type(0) == openvino.Type.f32)
