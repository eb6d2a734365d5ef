"""The ONNX graph as OpenVINO IR, every type as the graph has it: precision is chosen, not implied.

INT8 and BF16 are computed as written. FP16 regions are computed in FP32 by a CPU without FP16
arithmetic, from weights that were rounded to FP16.
"""

from __future__ import annotations

import tempfile
from functools import reduce
from pathlib import Path

import onnx
import openvino
from openvino import opset13 as opset

from .fold import constants_of


def to_ir(graph: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The bytes of model.xml and model.bin."""
    model = openvino.Core().read_model(graph.SerializeToString())
    _keep_sums(model, graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _keep_sums(model: openvino.Model, graph: onnx.ModelProto) -> None:
    """Sums of constants as they are in the graph: reading it, OpenVINO wrote the larger results."""
    terms = {name: [value] for name, value in constants_of(graph).items()}
    sums = {}
    for node in graph.graph.node:
        if node.op_type == "Add" and all(name in terms for name in node.input):
            sums[node.output[0]] = terms[node.output[0]] = (
                terms[node.input[0]] + terms[node.input[1]]
            )
    for op in model.get_ops():
        name = op.get_friendly_name()
        if name in sums and op.get_type_name() == "Constant":
            total = reduce(opset.add, map(opset.constant, sums[name]))
            openvino.utils.replace_node(op, total)
