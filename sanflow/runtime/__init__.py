"""Where parts are judged: engines, the detector, folders of images, and what a machine can run.

    from sanflow.runtime import Detector

    with Detector("bundle") as detector:
        result = detector.judge("part.png")

This needs NumPy, OpenCV and one engine. It never imports torch, nor an engine before one is opened.
"""

from .detector import Detector, Result
from .engine import Engine, Output, TensorSpec
from .registry import ENGINES, available_engines, open_engine

__all__ = [
    "ENGINES",
    "Detector",
    "Engine",
    "Output",
    "Result",
    "TensorSpec",
    "available_engines",
    "open_engine",
]
