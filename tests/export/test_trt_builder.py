"""NVIDIA's own parser and builder accept the exported graphs; no GPU is needed to build."""

from __future__ import annotations

from typing import Any

import pytest

from sanflow.export.graph import to_onnx

from .conftest import small_model

trt = pytest.importorskip(
    "tensorrt_rtx", reason="NVIDIA's builder is not installed: pip install tensorrt-rtx-cu13"
)

pytestmark = pytest.mark.trt_builder


@pytest.mark.parametrize(
    "changes",
    [
        {"taps": (8, 16, 32)},
        {"extractor": "mobilenet_v3_large", "variance_rule": "expectation"},
        {"smooth": 3, "feature_scale": "standard", "image_score": "top", "mean": "estimated"},
        {"pools": (4, 1)},
        {"fusion": "log_likelihood", "variance": "fixed", "padding": "zeros"},
    ],
    ids=lambda c: " ".join(map(str, c.values())),
)
def test_the_builder_makes_an_engine(changes: dict[str, Any]) -> None:
    graph = to_onnx(small_model(**changes), batch=2)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(graph.SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    tensors = [network.get_input(0), network.get_output(0), network.get_output(1)]
    assert [(t.name, tuple(t.shape)) for t in tensors] == [
        ("image", (2, 64, 96, 3)),
        ("score", (2,)),
        ("map", (2, 64, 96)),
    ]
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan is not None
    assert plan.nbytes > 1_000_000
