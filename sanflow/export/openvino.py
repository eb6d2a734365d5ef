"""The ONNX graph as OpenVINO IR, every type as the graph has it: precision is chosen, not implied.

INT8 and BF16 are computed as written. FP16 regions are computed in FP32 by a CPU without FP16
arithmetic, from weights that were rounded to FP16.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import openvino


def to_ir(graph: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The bytes of model.xml and model.bin."""
    model = openvino.Core().read_model(graph.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()
