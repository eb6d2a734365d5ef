"""One static ONNX graph: uint8 image in, raw score and anomaly map out.

The model is compiled (passes.py) and traced (a shape is a number then, not arithmetic), what is
left of constant arithmetic is folded, and the result is checked against what every engine can run.
Weights are inside; nothing of the machine is.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch

from ..errors import InputError
from ..model.method import Method
from .compile import Inference, compile_model
from .exact import exact
from .fold import fold
from .lint import IR_VERSION, OPSET, lint


def to_onnx(model: Method[Any] | Inference, batch: int = 1) -> onnx.ModelProto:
    """ONNX opset 17: `image` uint8 (N, H, W, 3) -> `score` f32 (N,), `map` f32 (N, H, W).

    A trained model is compiled first. Raises InputError for an impossible batch.
    """
    if batch < 1:
        raise InputError(f"batch {batch} must be at least 1")
    graph = exact(trace(compile_model(model).model if isinstance(model, Method) else model, batch))
    lint(graph)
    return graph


def trace(model: Inference, batch: int = 1) -> onnx.ModelProto:
    """The ONNX graph of any state of the inference model, as an exporter writes it.

    Only constant arithmetic is folded: benchmarks run the naive state from here.
    """
    images = torch.zeros(batch, model.config.height, model.config.width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            model.float().eval(),
            (images,),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes a stream
            input_names=["image"],
            output_names=["score", "map"],
            opset_version=OPSET,
            # It would write the position's row and column as one map, several times the file.
            do_constant_folding=False,
            dynamo=False,
        )
    graph = fold(onnx.load_from_string(buffer.getvalue()))
    graph.ir_version = IR_VERSION
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
