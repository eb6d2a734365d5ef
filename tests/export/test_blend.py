"""CLS-CNF's graph: the maps that PyTorch gives, one extractor, the classifier's norms folded."""

from __future__ import annotations

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from sanflow.export.blend import naive_blend
from sanflow.export.compile import compile_model
from sanflow.export.graph import to_onnx
from sanflow.export.half import to_half
from sanflow.export.lint import lint
from sanflow.export.openvino import to_ir
from sanflow.export.plan import Plan, region_of
from sanflow.model.cls_cnf import CLSCNF
from sanflow.model.cls_config import ClsCnfConfig

SIDE = 64


def trained(extractor: str = "resnet18") -> CLSCNF:
    """A model whose norms, weights and constants are no identities."""
    config = ClsCnfConfig(
        extractor=extractor,
        taps=(8, 16),
        height=SIDE,
        width=SIDE,
        position_dim=16,
        blocks=2,
        feature_scale="standard",
    )
    model = CLSCNF(config, seed=1)
    generator = torch.Generator().manual_seed(0)
    for module in model.decoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.copy_(0.1 * torch.randn(values.shape, generator=generator))
            for values in (module.running_var, module.weight.data):
                values.copy_(0.5 + torch.rand(values.shape, generator=generator))
    model.map_weight.fill_(0.35)
    model.eval()
    model.fit_feature_scale([pictures(4)])
    model.fit_level_max([pictures(2)])
    return model


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = (count, SIDE, SIDE, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_every_pass_keeps_the_map() -> None:
    model = trained().double()
    images = pictures(2)
    score, heat = model(images)
    first = naive_blend(model)
    for state in (first, compile_model(model).model.double()):
        got = state(images)
        assert torch.allclose(got[1], heat, rtol=0, atol=1e-6)
        assert torch.allclose(got[0], score, rtol=0, atol=1e-6)
    assert torch.allclose(first(images)[1], heat, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "extractor", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_engines_give_pytorchs_maps_and_the_same_bits_in_every_slot(extractor: str) -> None:
    model, images = trained(extractor), pictures(2).numpy()
    with torch.inference_mode():
        expected = [t.numpy() for t in model(torch.from_numpy(images))]
    graph = to_onnx(model, 2)
    assert not any(node.op_type == "Resize" for node in graph.graph.node)  # none has cubic
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(*to_ir(graph)), "CPU", settings)
    for run in (
        lambda x: session.run(["score", "map"], {"image": x}),
        lambda x: [np.array(compiled([x])[name]) for name in ("score", "map")],
    ):
        got, turned = run(images), run(images[::-1].copy())
        for value, reverse, truth in zip(got, turned, expected, strict=True):
            np.testing.assert_allclose(value, truth, rtol=0, atol=2e-4)
            assert np.array_equal(value, reverse[::-1])


def test_one_extractor_and_no_norms() -> None:
    graph = to_onnx(trained()).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MaxPool") == 1
    assert "BatchNormalization" not in kinds
    assert kinds.count("Sigmoid") == 1
    assert kinds.count("ReduceMax") == 1


def test_the_classifier_is_a_head_whose_probability_stays_fp32() -> None:
    model, images = trained(), pictures(1).numpy()
    graph = to_onnx(model)
    regions = {node.op_type: region_of(node.name) for node in graph.graph.node}
    assert regions["Sigmoid"] == regions["ReduceMax"] == "likelihood"
    heads = [node.op_type for node in graph.graph.node if region_of(node.name) == "head"]
    assert heads.count("Conv") == sum(isinstance(m, nn.Conv2d) for m in model.decoder.modules())
    low = to_half(graph, Plan.uniform(graph, "fp16"))
    lint(low)
    with torch.inference_mode():
        _, expected = model(torch.from_numpy(images))
    session = onnxruntime.InferenceSession(low.SerializeToString())
    (got,) = session.run(["map"], {"image": images})
    assert 0 < np.abs(got - expected.numpy()).max() < 0.05


@pytest.mark.trt_builder
def test_nvidias_builder_makes_an_engine() -> None:
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="NVIDIA's builder is not installed: pip install tensorrt-rtx-cu13"
    )
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(to_onnx(trained()).SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None
