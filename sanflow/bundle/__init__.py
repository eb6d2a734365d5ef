"""The deployable artefact: a folder with its graph, golden samples, and a manifest over all of it.

    BUNDLE/manifest.json            what everything is, with the sha256 of every file
    BUNDLE/model.onnx               target onnx;  model.xml and model.bin for target openvino;
                                    model.fp32.onnx, model.fp16.onnx, ... for target tensorrt
    BUNDLE/golden/000.png ...       model input pixels, 8-bit RGB
    BUNDLE/golden/maps.npy          PyTorch's anomaly maps of them, float32 (N, H, W)
    BUNDLE/report.html              how it was made and measured, for people

`manifest` is what it says, `spelling` how that is written, `coherence` whether its fields fit each
other; `contents` and `onnx_wire` are what its files may hold, `folder` opens one, `write` writes
one. Only NumPy and OpenCV are needed, and opening executes nothing.
"""

from .folder import Bundle, Golden
from .manifest import Decision, Graph, Manifest
from .write import staged_bundle, with_decisions, with_report, write_bundle

__all__ = [
    "Bundle",
    "Decision",
    "Golden",
    "Graph",
    "Manifest",
    "staged_bundle",
    "with_decisions",
    "with_report",
    "write_bundle",
]
