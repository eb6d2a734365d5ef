"""The deployable artefact: a folder with one graph, golden samples, and a manifest over all of it.

    BUNDLE/manifest.json            what everything is, with the sha256 of every file
    BUNDLE/model.onnx               target onnx;  model.xml and model.bin for target openvino
    BUNDLE/golden/000.png ...       model input pixels, 8-bit RGB
    BUNDLE/golden/maps.npy          PyTorch's anomaly maps of them, float32 (N, H, W)
    BUNDLE/report.html              how it was made and measured, for people

`manifest` is what it says, `contents` and `onnx_wire` what its files may hold, `folder` opens one,
`write` writes one. Only NumPy and OpenCV are needed, and opening executes nothing.
"""

from .folder import Bundle, Golden
from .manifest import Decision, Manifest
from .write import staged_bundle, with_decision, with_report, write_bundle

__all__ = [
    "Bundle",
    "Decision",
    "Golden",
    "Manifest",
    "staged_bundle",
    "with_decision",
    "with_report",
    "write_bundle",
]
