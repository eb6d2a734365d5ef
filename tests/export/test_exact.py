"""The same image gives the same bits: in every slot, batch size and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sanflow.export.exact import exact
from sanflow.export.graph import to_onnx
from sanflow.runtime.engine import Engine
from sanflow.runtime.registry import open_graph
from sanflow.runtime.setting import Setting

from .conftest import noise, small_model


def single(
    kind: str, shape: Sequence[int], out: Sequence[int], **attributes: Any
) -> onnx.ModelProto:
    """A graph of one node, x -> y."""
    graph = helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"], "only", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def test_softplus_is_exact_to_fp32_over_its_whole_range() -> None:
    x = np.concatenate([np.linspace(-100, 100, 40001), [0, -1e-30, 1e-30, -1e4, 1e4]])
    x = x.astype(np.float32)
    model = exact(single("Softplus", [x.size], [x.size]))
    assert "Softplus" not in {n.op_type for n in model.graph.node}
    truth = np.logaddexp(0, x.astype(np.float64))
    np.testing.assert_allclose(run(model, x), truth, rtol=5e-7, atol=1e-37)


def test_softplus_of_one_value_is_the_same_at_every_place() -> None:
    model = exact(single("Softplus", [67], [67]))
    for value in np.random.default_rng(0).normal(0, 3, 50).astype(np.float32):
        assert len(np.unique(run(model, np.full(67, value)))) == 1


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("shape", [(2, 7, 3, 5), (2, 7)])
def test_mean_over_axis_1(shape: tuple[int, ...], keepdims: int) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mean = x.mean(1, keepdims=bool(keepdims))
    model = exact(single("ReduceMean", shape, mean.shape, axes=[1], keepdims=keepdims))
    assert "ReduceMean" not in {n.op_type for n in model.graph.node}
    found = run(model, x)
    assert found.shape == mean.shape
    np.testing.assert_allclose(found, mean, atol=1e-6)


def test_means_over_other_axes_stay() -> None:
    model = single("ReduceMean", (2, 7, 3, 5), (2, 7, 5), axes=[2], keepdims=0)
    assert [n.op_type for n in exact(model).graph.node] == ["ReduceMean"]


CONFIGURATIONS: list[dict[str, Any]] = [
    {"fusion": "log_likelihood", "taps": (8, 16, 32)},
    {"variance": "fixed", "image_score": "top", "top_fraction": 0.02},
    {"variance_rule": "expectation", "taps": (8, 16), "pools": (2, 1)},
    {"extractor": "mobilenet_v3_large", "taps": (8, 16, 32), "smooth": 3},
]


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=lambda c: " ".join(map(str, c.values())))
def test_one_image_has_the_same_bits_in_any_batch(changes: dict[str, Any]) -> None:
    """Levels as small as 2 x 3, so that slots begin in the middle of a vector register."""
    model = small_model(**changes)
    images = noise(4, model, seed=2).numpy()
    made = {batch: to_onnx(model, batch) for batch in (1, 3)}
    graphs = {batch: {"model.onnx": graph.SerializeToString()} for batch, graph in made.items()}
    for name in ("openvino", "onnxruntime"):
        alone = None
        for threads in (1, 3):
            with open_graph(graphs[1], Setting(name, threads)) as engine:
                found = [bits(engine, image[None])[0] for image in images]
            alone = alone or found
            assert found == alone
            with open_graph(graphs[3], Setting(name, threads)) as engine:
                for order in ([0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 1, 3]):
                    assert bits(engine, images[order]) == [alone[i] for i in order]


def bits(engine: Engine, images: np.ndarray) -> list[bytes]:
    """Score and map of each image, byte by byte."""
    output = engine.infer(images)
    return [s.tobytes() + m.tobytes() for s, m in zip(output.score, output.map, strict=True)]
