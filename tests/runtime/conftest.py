"""A bundle with a small but real network: convolutions, tanh, exp, a maximum."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sanflow import imaging
from sanflow.bundle import Bundle, manifest, write_bundle
from sanflow.bundle.contents import PAGE_HEAD
from sanflow.errors import EngineError
from sanflow.imaging import PixelPath, Roi
from sanflow.runtime import Engine

HEIGHT, WIDTH, COUNT = 24, 20, 8
HASH = "0123456789abcdef" * 4

MakeBundle = Callable[..., Bundle]


def network(batch: int = 1, *, nan_on_black: bool = False) -> onnx.ModelProto:
    """uint8 (N, 24, 20, 3) -> score (N,), map (N, 24, 20); dark images score high."""
    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        spread = 1 / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(rng.normal(0, spread, shape).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["nchw"], "transpose", perm=[0, 3, 1, 2]),
        node("Div", ["nchw", "scale"], ["x"], "scale"),
        node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "relu"),
        node("Conv", ["r1", "w2"], ["c2"], "conv2"),
        node("Tanh", ["c2"], ["t2"], "tanh"),
        node("Conv", ["t2", "w3"], ["c3"], "conv3", pads=[2, 2, 2, 2]),
        node("Exp", ["c3"], ["e3"], "exp"),
        node("ReduceMax", ["x"], ["bright"], "bright", axes=[1, 2, 3], keepdims=1),
        *(
            # 0 / 0 on an image that is all black.
            [node("Div", ["bright", "bright"], ["one"], "one")]
            if nan_on_black
            else [node("Exp", ["bright"], ["one"], "one")]
        ),
        node("Mul", ["e3", "one"], ["m"], "mul"),
        node("Squeeze", ["m", "axis"], ["map"], "squeeze"),
        node("ReduceMax", ["map"], ["score"], "max", axes=[1, 2], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(np.float32(255), "scale"),
        numpy_helper.from_array(np.array([1]), "axis"),
        weights("w1", 16, 3, 3, 3),
        weights("w2", 24, 16, 1, 1),
        weights("w3", 1, 24, 5, 5),
    ]
    graph = helper.make_graph(
        nodes,
        "sanflow",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, HEIGHT, WIDTH, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [batch, HEIGHT, WIDTH]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def overtaken(
    engine: Engine, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What three threads are told that find the engine open, and it is closed before they go on."""
    found_open, closed, said = threading.Barrier(4), threading.Event(), list[str]()

    def check(images: object) -> None:
        found_open.wait(10)
        closed.wait(10)

    def infer() -> None:
        try:
            engine.infer(images)
        except EngineError as error:
            said.append(str(error))

    monkeypatch.setattr(engine, "_check_input", check)
    threads = [threading.Thread(target=infer, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    found_open.wait(10)
    engine.close()
    closed.set()
    for thread in threads:
        thread.join(10)
    return said


def to_ir(model: onnx.ModelProto, folder: Path) -> dict[str, bytes]:
    """The same network as OpenVINO's IR."""
    found = openvino.Core().read_model(model.SerializeToString())
    openvino.save_model(found, folder / "model.xml", compress_to_fp16=False)
    names = ("model.xml", "model.bin")
    return {name: (folder / name).read_bytes() for name in names}


def reference(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the network says by ONNX's own definition of its operators, without any engine."""
    evaluator = ReferenceEvaluator(network())
    judged = [evaluator.run(["score", "map"], {"image": image[None]}) for image in images]
    scores, maps = zip(*judged, strict=True)
    return np.concatenate(scores), np.concatenate(maps)


def noise(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Model inputs (count, 24, 20, 3), each of its own brightness."""
    rng = np.random.default_rng(seed)
    top = rng.integers(20, 256, (count, 1, 1, 1))
    return (rng.random((count, HEIGHT, WIDTH, 3)) * top).astype(np.uint8)


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Six model inputs."""
    return noise(6)


@pytest.fixture(scope="session")
def golden() -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Golden images with the reference's scores and maps."""
    inputs = noise(COUNT, seed=99)
    return inputs, *reference(inputs)


@pytest.fixture
def make_bundle(
    tmp_path: Path, golden: tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]
) -> MakeBundle:
    """Writes a bundle of that network; the threshold parts its golden images in halves."""

    def make(
        name: str = "bundle",
        target: manifest.Target = "onnx",
        batch: int = 1,
        roi: Roi | None = None,
        original: tuple[int, int] | None = None,
        graph: onnx.ModelProto | None = None,
        models: dict[str, onnx.ModelProto] | None = None,
        golden_shift: float = 0.0,
        precisions: tuple[manifest.Precision, ...] = ("fp32",),
        decision: manifest.Decision | None = None,
        tolerances: manifest.Tolerances = manifest.Tolerances(1e-4, 1e-4, 1e-3),  # noqa: B008
        **changes: Any,
    ) -> Bundle:
        m = manifest
        inputs, scores, maps = golden
        model = graph or network(batch)
        array = io.BytesIO()
        np.save(array, maps)
        contents = {m.golden_name(i): imaging.encode_png(image) for i, image in enumerate(inputs)}
        contents[m.MAPS] = array.getvalue()
        contents[m.REPORT] = PAGE_HEAD.encode()
        middle = float(np.median(scores))
        graphs = tuple(
            m.Graph(
                precision=precision,
                regions={"extractor": precision, "likelihood": "fp32"},
                activation="int8" if precision == "int8" else None,
                files=m.graph_files(target, precision),
                scores=(0.25 + at, 0.5 + at),
                part_scores=(0.25 + at, 0.5 + at),
                decision=decision
                or m.Decision(middle, 0.25, middle - 1e-3, middle + 1e-3, 0.0, 2 * middle),
                tolerances=tolerances,
            )
            for at, precision in enumerate(precisions)
        )
        if target == "openvino":
            contents |= to_ir(model, tmp_path)
        else:
            own = models or {}
            contents |= {
                g.files[0]: own.get(g.precision, model).SerializeToString() for g in graphs
            }
        fields: dict[str, Any] = {
            "schema": m.SCHEMA,
            "sanflow": "0.1.0",
            "created": "2026-01-31T12:00:00Z",
            "target": target,
            "graphs": graphs,
            "model": m.ModelInfo(
                method="sanflow",
                extractor="resnet18",
                taps=(8,),
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
            "data": m.DataInfo(fingerprint=HASH, train=20, calibrate=2, parts=2),
            "input": m.Tensor("image", "uint8", (batch, HEIGHT, WIDTH, 3)),
            "outputs": (
                m.Tensor("score", "float32", (batch,)),
                m.Tensor("map", "float32", (batch, HEIGHT, WIDTH)),
            ),
            "pixels": PixelPath(HEIGHT, WIDTH, roi, original),
            "calibration": m.CalibrationInfo(level_max=(0.0,)),
            "golden": tuple(
                m.GoldenEntry(m.golden_name(i), float(score) + golden_shift, "good")
                for i, score in enumerate(scores)
            ),
            "references": {},
            "files": {},
            "digest": "",
        }
        return write_bundle(tmp_path / name, m.Manifest(**{**fields, **changes}), contents)

    return make


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    """An ONNX bundle for one image at a time."""
    return make_bundle()
