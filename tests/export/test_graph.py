"""The exported graph is the model: same numbers in every engine, plain operators, nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto

from sanflow.bundle import onnx_wire
from sanflow.errors import InputError
from sanflow.export.graph import to_onnx
from sanflow.export.lint import OPERATORS
from sanflow.export.openvino import to_ir
from sanflow.model.sanflow import SANFlow

from .conftest import noise, small_model

CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"extractor": "resnet50", "taps": (8, 16), "padding": "zeros", "stride_on": "1x1"},
    {"extractor": "mobilenet_v2", "feature_scale": "standard", "smooth": 3},
    {"extractor": "mobilenet_v3_large", "taps": (8, 16, 32), "variance_rule": "expectation"},
    {"variance": "unit", "image_score": "top", "blocks": 1},
    {"pools": (4, 1), "feature_scale": "standard", "map_sigma": 4.0},
    {"variance": "fixed", "mean": "estimated", "fusion": "log_likelihood"},
]


def pytorch(model: SANFlow, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scores and maps, one image at a time."""
    with torch.inference_mode():
        judged = [model(image[None]) for image in images]
    return (
        np.concatenate([score.numpy() for score, _ in judged]),
        np.concatenate([heat.numpy() for _, heat in judged]),
    )


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=lambda c: " ".join(map(str, c.values())))
def test_engines_agree_with_pytorch(changes: dict[str, Any]) -> None:
    """Relative score error <= 1e-4 and map error <= 1e-3 on ONNX Runtime and OpenVINO."""
    model = small_model(**changes)
    images = noise(6, model, seed=1)
    score, heat = pytorch(model, images)
    assert np.ptp(score) > 1e-3
    data = to_onnx(model).SerializeToString()
    assert onnx_wire.problem(data) is None
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for run in (
        lambda x: session.run(["score", "map"], {"image": x}),
        lambda x: [np.array(compiled({"image": x})[name]) for name in ("score", "map")],
    ):
        found = [run(image[None].numpy()) for image in images]
        scores = np.concatenate([f[0] for f in found])
        maps = np.concatenate([f[1] for f in found])
        np.testing.assert_allclose(scores, score, rtol=1e-4)
        assert (np.abs(maps - heat) / np.maximum(np.abs(heat), 1)).max() <= 1e-3


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    """The first configuration's graph for two images."""
    return to_onnx(small_model(), batch=2)


def test_names_types_and_shapes_are_the_contract(graph: onnx.ModelProto) -> None:
    ends = {
        info.name: (
            info.type.tensor_type.elem_type,
            tuple(d.dim_value for d in info.type.tensor_type.shape.dim),
        )
        for info in (*graph.graph.input, *graph.graph.output)
    }
    assert ends == {
        "image": (TensorProto.UINT8, (2, 64, 96, 3)),
        "score": (TensorProto.FLOAT, (2,)),
        "map": (TensorProto.FLOAT, (2, 64, 96)),
    }
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert graph.ir_version == 8


def test_only_what_depends_on_the_image_is_left(graph: onnx.ModelProto) -> None:
    """No shape arithmetic, no constants as nodes, no casts but the one of the image."""
    kinds = [node.op_type for node in graph.graph.node]
    assert set(kinds) <= OPERATORS
    assert kinds[0] == "Cast"
    assert kinds.count("Cast") == 1
    assert not {"Constant", "Shape", "Identity", "ConstantOfShape"} & set(kinds)
    moved = [node.name for node in graph.graph.node if node.op_type == "Reshape"]
    assert all(name.startswith("/head/") for name in moved)  # its windows
    # Two products with the features and none with the position code, per block and level.
    flows = [n for n in graph.graph.node if n.op_type == "Conv" and "levels" in n.name]
    assert len(flows) == 2 * 2 * 2


def test_nothing_but_the_model_is_in_the_file(graph: onnx.ModelProto) -> None:
    data = graph.SerializeToString()
    for trace in (b"site-packages", b"/home", b"/root", b"/work", b".py"):
        assert trace not in data
    assert not graph.doc_string
    assert not any(node.doc_string for node in graph.graph.node)
    assert graph.producer_name == "sanflow"
    weights = sum(p.numel() * 4 for p in small_model().parameters())
    assert len(data) < 1.1 * weights + 200_000


def test_the_same_model_gives_the_same_bytes(graph: onnx.ModelProto) -> None:
    again = to_onnx(small_model(), batch=2)
    assert again.SerializeToString(deterministic=True) == graph.SerializeToString(
        deterministic=True
    )


def test_exporting_leaves_the_model_as_it_was() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = noise(2, model)
    score, _ = pytorch(model, images)
    to_onnx(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    np.testing.assert_array_equal(pytorch(model, images)[0], score)


def test_neighbours_in_a_batch_change_no_bit(graph: onnx.ModelProto) -> None:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = noise(4, small_model(), seed=2).numpy()
    pairs = [session.run(None, {"image": images[[0, other]]}) for other in range(4)]
    for score, heat in pairs[1:]:
        assert score[0] == pairs[0][0][0]
        np.testing.assert_array_equal(heat[0], pairs[0][1][0])


def test_a_position_is_a_row_and_a_column_in_the_file(graph: onnx.ModelProto) -> None:
    """Engines sum them when they load it; as maps they were half of a trained run's file."""
    grids = {size for size in small_model().sizes if min(size) > 1}
    maps = [t.name for t in graph.graph.initializer if tuple(t.dims[2:]) in grids]
    assert not maps
    rows, columns = ({(h, 1) for h, _ in grids}, {(1, w) for _, w in grids})
    found = {tuple(t.dims[2:]) for t in graph.graph.initializer}
    assert rows | columns <= found
    xml, weights = to_ir(graph)
    model = openvino.Core().read_model(xml, weights)
    shapes = [op.get_output_shape(0) for op in model.get_ops() if op.get_type_name() == "Constant"]
    kept = {tuple(shape[2:]) for shape in shapes}
    assert rows | columns <= kept
    assert not kept & grids


def constants(source: Any) -> set[tuple[int, ...]]:
    """The shapes of the constants that OpenVINO holds of a compiled graph."""
    core = openvino.Core()
    model = core.read_model(*source) if isinstance(source, tuple) else core.read_model(source)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = compiled.get_runtime_model().get_ops()
    kept = (op for op in nodes if op.get_rt_info()["layerType"].astype(str) == "Const")
    return {tuple(op.get_output_shape(0)) for op in kept}


def test_openvino_never_holds_a_positions_map(graph: onnx.ModelProto) -> None:
    """It would sum row and column, and hold the map twice: half of what a process needs."""
    grids = {size for size in small_model().sizes if min(size) > 1}
    summed = {s for s in constants(graph.SerializeToString()) if s[0] == 1 and s[2:] in grids}
    assert len({s[2:] for s in summed}) == len(grids), "the ONNX file shows what is to be avoided"
    assert not {s for s in constants(to_ir(graph)) if s[0] == 1 and s[2:] in grids}


def test_the_ir_scores_as_the_onnx(graph: onnx.ModelProto) -> None:
    core, found = openvino.Core(), []
    images = noise(2, small_model(), seed=3).numpy()
    for source in ((graph.SerializeToString(),), to_ir(graph)):
        model = core.read_model(*source)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for pixels in (images, np.zeros_like(images), np.full_like(images, 255)):
            found.append([np.array(compiled({"image": pixels})[n]) for n in ("score", "map")])
    for one, other in zip(found[:3], found[3:], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_the_ir_keeps_float32_weights(graph: onnx.ModelProto) -> None:
    xml, weights = to_ir(graph)
    assert b'element_type="f16"' not in xml
    assert b'element_type="bf16"' not in xml
    floats = sum(
        4 * int(np.prod(t.dims))
        for t in graph.graph.initializer
        if t.data_type == TensorProto.FLOAT
    )
    assert len(weights) > 0.95 * floats
    model = openvino.Core().read_model(xml, weights)
    assert [port.get_any_name() for port in model.outputs] == ["score", "map"]


def test_smoothing_the_map_adds_no_operator() -> None:
    graphs = [to_onnx(small_model(map_sigma=sigma)).graph for sigma in (0.0, 4.0)]
    plain, smoothed = ([node.op_type for node in graph.node] for graph in graphs)
    assert smoothed == plain
    sizes = [sorted(tuple(t.dims) for t in graph.initializer) for graph in graphs]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("changes", "batch", "reason"),
    [
        ({}, 0, "batch 0 must be at least 1"),
    ],
)
def test_what_no_engine_could_run_is_refused_before_tracing(
    changes: dict[str, Any], batch: int, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        to_onnx(small_model(**changes), batch)


def test_a_model_with_a_broken_weight_is_refused() -> None:
    model = small_model()
    with torch.no_grad():
        model.flows[0].blocks[0].global_offset[0, 0] = float("nan")  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match="not finite; train the run again"):
        to_onnx(model)
