"""A bundle of a few thousand bytes, so that a test can afford to break every one of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sanflow import imaging
from sanflow.bundle import Bundle, manifest, write_bundle
from sanflow.bundle.contents import PAGE_HEAD

SIDE, COUNT = 2, 8
HASH = "0123456789abcdef" * 4


def small_onnx() -> onnx.ModelProto:
    """A graph with the bundle's contract that needs no weights but one: means over colours."""
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("ReduceMean", ["float"], ["grey"], axes=[3], keepdims=0),
        node("Mul", ["grey", "scale"], ["map"]),
        node("ReduceMax", ["map"], ["score"], axes=[1, 2], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])
    heat = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, SIDE, SIDE])
    scale = onnx.numpy_helper.from_array(np.float32([1 / 255]), "scale")
    graph = helper.make_graph(nodes, "sanflow", [image], [score, heat], [scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def draft() -> manifest.Manifest:
    """A consistent manifest without files and digest."""
    m = manifest
    return m.Manifest(
        schema="sanflow.bundle/2",
        sanflow="0.1.0",
        created="2026-01-31T12:00:00Z",
        target="onnx",
        graphs=(
            m.Graph(
                precision="fp32",
                regions={"extractor": "fp32", "likelihood": "fp32"},
                activation=None,
                files=("model.onnx",),
                scores=(0.25, 0.5, 0.75),
                part_scores=(0.25, 0.5, 0.75),
                decision=m.Decision(0.75, 0.25, 0.74, 0.76, 0.0, 1.5),
                tolerances=m.Tolerances(1e-4, 1e-4, 1e-3),
            ),
        ),
        model=m.ModelInfo(
            method="sanflow",
            extractor="resnet18",
            taps=(8, 16),
            pools=(),
            padding="reflect",
            feature_scale="none",
            fusion="likelihood",
            image_score="max",
            weights="none",
            weights_sha256=None,
            parameters=1,
            checkpoint_sha256=HASH,
        ),
        data=m.DataInfo(fingerprint=HASH, train=20, calibrate=3, parts=3),
        input=m.Tensor("image", "uint8", (1, SIDE, SIDE, 3)),
        outputs=(
            m.Tensor("score", "float32", (1,)),
            m.Tensor("map", "float32", (1, SIDE, SIDE)),
        ),
        pixels=imaging.PixelPath(SIDE, SIDE),
        calibration=m.CalibrationInfo(level_max=(-1.0, -0.5)),
        golden=tuple(m.GoldenEntry(m.golden_name(i), i / COUNT, "good") for i in range(COUNT)),
        references={HASH: 0.5},
        files={},
        digest="",
    )


@pytest.fixture
def contents() -> dict[str, bytes]:
    """Every file of that bundle but its manifest."""
    pixels = np.arange(COUNT * SIDE * SIDE * 3, dtype=np.uint8).reshape(COUNT, SIDE, SIDE, 3)
    maps = io.BytesIO()
    np.save(maps, np.arange(COUNT * SIDE * SIDE, dtype=np.float32).reshape(COUNT, SIDE, SIDE))
    files = {manifest.golden_name(i): imaging.encode_png(image) for i, image in enumerate(pixels)}
    page = (PAGE_HEAD + "<title>report</title></head></html>\n").encode()
    graph = small_onnx().SerializeToString()
    return {"model.onnx": graph, **files, manifest.MAPS: maps.getvalue(), manifest.REPORT: page}


@pytest.fixture
def bundle(tmp_path: Path, draft: manifest.Manifest, contents: dict[str, bytes]) -> Bundle:
    """The bundle, written and opened."""
    return write_bundle(tmp_path / "bundle", draft, contents)
