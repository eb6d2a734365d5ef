"""Image-level methods as graphs: PyTorch's scores on every engine, the same bits in any slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray
from torchvision.models.vision_transformer import VisionTransformer

from sanflow.export.graph import to_onnx
from sanflow.export.openvino import to_ir
from sanflow.export.plan import regions_of
from sanflow.model import tokens
from sanflow.model.methods import build
from sanflow.model.token_config import FoadMfffConfig, SanfAdConfig
from sanflow.model.tokens import TokenMethod
from sanflow.model.vit import TokenTransformer

SIDE = 96
CONFIGS = {
    "sanf-ad vit": SanfAdConfig(height=SIDE, width=SIDE, couplings=2),
    "sanf-ad cnn": SanfAdConfig(
        extractor="resnet18", height=SIDE, width=SIDE, couplings=2, layout="compat"
    ),
    "foad-mfff vit": FoadMfffConfig(height=SIDE, width=SIDE, couplings=2),
    "foad-mfff cnn": FoadMfffConfig(
        extractor="mobilenet_v2", height=SIDE, width=SIDE, couplings=2, feature_scale="standard"
    ),
}


@pytest.fixture(autouse=True)
def _small_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer of two layers in the place of torchvision's large ones."""

    def small(name: str, height: int, width: int) -> TokenTransformer:
        return TokenTransformer(name, VisionTransformer(64, 16, 2, 4, 32, 64), height, width)

    monkeypatch.setattr(tokens, "build_transformer", small)


def made(name: str) -> TokenMethod:
    model = build(CONFIGS[name]).eval()
    assert isinstance(model, TokenMethod)
    with torch.no_grad():
        for parameter in model.flow.parameters():  # as far from the first weights as training goes
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator()))
    return model


def pictures(batch: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, SIDE, SIDE, 3)).astype(np.uint8)


def scores(graph: Any, engine: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scores of the images by a graph of their number, or one after the other by a graph of one."""
    if engine == "onnxruntime":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        return np.asarray(session.run(["score"], {"image": images})[0])
    core = openvino.Core()
    xml, weights = to_ir(graph)
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(xml, weights), "CPU", settings)
    return np.array(compiled([images])["score"])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", CONFIGS)
def test_engines_give_pytorchs_scores_and_the_same_bits_in_every_slot(
    name: str, engine: str
) -> None:
    model, images = made(name), pictures()
    with torch.inference_mode():
        expected = model(torch.from_numpy(images))[0].numpy()
    graph = to_onnx(model, 3)
    together = scores(graph, engine, images)
    np.testing.assert_allclose(together, expected, rtol=1e-5)
    turned = scores(graph, engine, images[::-1].copy())[::-1]
    assert np.array_equal(together, turned)
    assert np.array_equal(scores(to_onnx(model, 1), engine, images[:1]), together[:1])


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_dead_is_in_the_graph(name: str) -> None:
    """No log-determinant, no key or value of any token, and an extractor that has a region."""
    graph = to_onnx(made(name))
    assert "extractor" in regions_of(graph)
    read = {name for node in graph.graph.node for name in node.input}
    read |= {output.name for output in graph.graph.output}
    assert all(set(node.output) & read for node in graph.graph.node)
    exps = [node for node in graph.graph.node if node.op_type == "Exp"]
    assert len(exps) == 2 * 2  # two halves of two couplings


@pytest.mark.trt_builder
@pytest.mark.parametrize("name", CONFIGS)
def test_nvidias_builder_makes_an_engine(name: str) -> None:
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="NVIDIA's builder is not installed: pip install tensorrt-rtx-cu13"
    )
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(to_onnx(made(name)).SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan is not None
