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
    model.validate_nodes_and_infer_types()


def _terms(node: Any) -> tuple[Any, Any, Any] | None:
    """x, row and column of an FP32 addition x + (row + column) of two constants."""
    if node.get_type_name() != "Add" or node.get_output_element_type(0) != openvino.Type.f32:
        return None
    for place in (0, 1):
        term = node.input_value(place).get_node()
        if term.get_type_name() == "Add":
            given = [term.input_value(0), term.input_value(1)]
            if all(one.get_node().get_type_name() == "Constant" for one in given):
                return node.input_value(1 - place), *given
    return None
