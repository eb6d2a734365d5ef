"""Every flow method through the passes: exact in float64, in two engines, nothing dead inside."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from sanflow.export.compile import PASSES, compile_model
from sanflow.export.deploy import DeployModel, Level
from sanflow.export.graph import to_onnx
from sanflow.export.likelihood import Likelihood
from sanflow.export.naive import naive
from sanflow.export.plan import Plan, region_of
from sanflow.export.typed import typed
from sanflow.model.pyramid import Pyramid

from .conftest import noise, small_model

KINDS: list[dict[str, Any]] = [
    {"method": "cflow"},
    {"method": "cflow", "permutation": "hard", "position_dim": 0, "pools": (1,)},
    {"method": "cflow", "position_dim": 0, "feature_scale": "position"},
    {"method": "cflow", "extractor": "mobilenet_v3_large", "taps": (8, 16), "blocks": 1},
    {"method": "cflow-sp", "feature_scale": "standard", "fusion": "log_likelihood"},
    {"method": "fastflow"},
    {"method": "fastflow", "conv3x3_only": True, "pools": (2,), "fusion": "log_likelihood"},
    {"method": "fastflow", "layer_norm": False, "feature_scale": "standard", "blocks": 3},
    {"method": "fastflow-sp", "variance_rule": "expectation", "hidden_ratio": 0.5},
    {"method": "fastflow-sp", "layer_norm": False, "feature_scale": "position"},
]


def named(kind: dict[str, Any]) -> str:
    return " ".join(map(str, kind.values()))


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_every_pass_keeps_likelihoods_and_scores(kind: dict[str, Any]) -> None:
    model = small_model(**{"height": 64, "width": 64, **kind})
    images = noise(2, model, seed=1)
    truth = copy.deepcopy(model).double()
    with torch.no_grad():
        levels = zip(truth.log_likelihoods(images), truth.level_max, strict=True)
        above = [m - level for level, m in levels]
        score, heat = truth(images)
        state = naive(model)
        # The rotations are stored in FP32: their products are the identity to 1e-7 only.
        bound = 1e-6 if model.config.method.startswith("cflow") else 1e-9
        for apply in (lambda state: state, *(p[0] for p in PASSES)):
            state = apply(state)
            likelihood = cast(Likelihood, state.likelihood)
            found = likelihood.above(state.latents(images))
            for mine, theirs in zip(found, above, strict=True):
                torch.testing.assert_close(mine[:, 0], theirs, rtol=bound, atol=bound)
            mine_score, mine_heat = state(images)
            torch.testing.assert_close(mine_score, score, rtol=0, atol=bound)
            torch.testing.assert_close(mine_heat, heat, rtol=0, atol=bound)


FIRST = [kind for kind in KINDS if set(kind) == {"method"}]
REST = [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in FIRST]


@pytest.mark.parametrize("kind", [*FIRST, *REST], ids=named)
def test_the_graph_gives_the_models_scores_in_both_engines(kind: dict[str, Any]) -> None:
    model = small_model(**{"height": 64, "width": 64, **kind})
    images = noise(3, model, seed=2)
    graph = to_onnx(model)
    with torch.no_grad():
        score, heat = model(images)
    for run in (onnx_runtime(graph), openvino(graph)):
        for i in range(len(images)):
            mine, theirs = run(images[i : i + 1].numpy())
            np.testing.assert_allclose(mine, score[i : i + 1], rtol=2e-4, atol=2e-4)
            np.testing.assert_allclose(theirs, heat[i : i + 1], rtol=2e-4, atol=5e-4)


@pytest.mark.parametrize("method", ["cflow", "fastflow", "fastflow-sp"])
def test_an_image_has_the_same_bits_in_every_slot(method: str) -> None:
    model = small_model(method=method, height=64, width=64)
    images = noise(4, model, seed=3).numpy()
    alone, batch = onnx_runtime(to_onnx(model)), onnx_runtime(to_onnx(model, 4))
    scores, maps = batch(images)
    for i in range(4):
        score, heat = alone(images[i : i + 1])
        assert score[0] == scores[i]
        assert np.array_equal(heat[0], maps[i])


def test_fastflows_log_determinant_is_gone() -> None:
    """s is read by its exponential alone; CFLOW's sums over channels are two more a level."""
    dead = to_onnx(small_model(method="fastflow", height=64, width=64))
    readers: dict[str, list[str]] = {}
    for node in dead.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    clamped = [
        node
        for node in dead.graph.node
        if node.op_type == "Mul" and made_by(dead, node.input[0]) == "Tanh"
    ]
    assert len(clamped) == 2 * 2
    assert all(readers[node.output[0]] == ["Exp"] for node in clamped)
    assert sum_over_channels(dead) == 2
    assert sum_over_channels(to_onnx(small_model(method="cflow", height=64, width=64))) == 4


def made_by(graph: onnx.ModelProto, name: str) -> str:
    return next(n.op_type for n in graph.graph.node if name in n.output)


def sum_over_channels(graph: onnx.ModelProto) -> int:
    """Convolutions of the likelihood."""
    kinds = Counter((region_of(n.name), n.op_type) for n in graph.graph.node)
    return kinds["likelihood", "Conv"]


def test_soft_rotations_but_the_last_stay_products() -> None:
    model = compile_model(small_model(method="cflow", blocks=3)).model
    assert isinstance(model, DeployModel)
    for level in cast("list[Level]", list(model.levels)):
        kinds = [type(block.mix).__name__ for block in level.blocks]
        assert kinds == ["Conv2d", "Conv2d", "Identity"]
        assert all(type(block.norm).__name__ == "Identity" for block in level.blocks)


def test_a_layer_norm_is_no_part_of_the_extractors_precision() -> None:
    graph = to_onnx(small_model(method="fastflow", height=64, width=64))
    regions = {region_of(n.name) for n in graph.graph.node if n.op_type == "LayerNormalization"}
    assert regions == {"level1.coupling", "level2.coupling"}


@pytest.mark.parametrize("method", ["cflow", "fastflow"])
def test_folding_saves_work(method: str) -> None:
    model: Pyramid = small_model(method=method)
    passes = compile_model(model).passes
    assert passes[-1].macs_after < 0.99 * passes[0].macs_before


def onnx_runtime(graph: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["score", "map"], {"image": images})


def openvino(graph: onnx.ModelProto) -> Any:
    ov = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    core = ov.Core()
    model = core.compile_model(
        core.read_model(graph.SerializeToString()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1},
    )

    def run(images: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        found = model({"image": images})
        return found["score"], found["map"]

    return run


BUILDS = [
    ("cflow", "fp16"),
    ("fastflow", "fp16"),
    *(pytest.param(name, "fp32", marks=pytest.mark.slow) for name in ("cflow", "fastflow")),
    *(pytest.param(f"{name}-sp", "fp16", marks=pytest.mark.slow) for name in ("cflow", "fastflow")),
    *(pytest.param(f"{name}-sp", "fp32", marks=pytest.mark.slow) for name in ("cflow", "fastflow")),
]


@pytest.mark.trt_builder
@pytest.mark.parametrize(("method", "precision"), BUILDS)
def test_nvidias_builder_makes_an_engine(method: str, precision: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="NVIDIA's builder is not installed")
    graph = to_onnx(small_model(method=method, height=64, width=64))
    if precision == "fp16":
        graph = typed(graph, Plan.uniform(graph, "fp16"), None, "int8")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(graph.SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan is not None
