"""SANFlow as one static ONNX graph: uint8 image in, raw score and anomaly map out.

The model is traced (a shape is a number then, not arithmetic), folded to what depends on the image,
and checked against what every engine can run. Weights are inside; nothing of the machine is.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from ..errors import InputError
from ..model.sanflow import SANFlow
from .exact import exact
from .fold import fold
from .lint import IR_VERSION, MAX_TOPK, OPSET, lint


def to_onnx(model: SANFlow, batch: int = 1) -> onnx.ModelProto:
    """ONNX opset 17: `image` uint8 (N, H, W, 3) -> `score` f32 (N,), `map` f32 (N, H, W).

    Raises InputError when the configuration gives a graph that some engine cannot run.
    """
    config = model.config
    if batch < 1:
        raise InputError(f"batch {batch} must be at least 1")
    top = round(config.top_fraction * config.height * config.width)
    if config.image_score == "top" and top > MAX_TOPK:
        share = MAX_TOPK / (config.height * config.width)
        raise InputError(
            f"top_fraction {config.top_fraction} of {config.height}x{config.width} pixels is {top} "
            f"values; TensorRT sorts at most {MAX_TOPK}: use a top_fraction below {share:.4f}"
        )
    images = torch.zeros(batch, config.height, config.width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            model.eval(),
            (images,),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes a stream
            input_names=["image"],
            output_names=["score", "map"],
            opset_version=OPSET,
            dynamo=False,
        )
    graph = exact(fold(onnx.load_from_string(buffer.getvalue())))
    graph.ir_version = IR_VERSION
    lint(graph)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """The tracing exporter announces its age and doubts each Python number; both are known."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
