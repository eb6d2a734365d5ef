"""The ONNX graph as OpenVINO IR, with weights in FP32: precision is chosen, never implied."""

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
