"""The input's form, measured: layout, where the resize happens, and images per inference.

    python benchmarks/input_form.py [--quick] [--extractor NAME]

Layout: uint8 (1, H, W, 3), which a camera delivers, against uint8 (1, 3, H, W) transposed on the
host. Resize: cv2 on the host (the pixel path) against two constant matrices in the graph, an exact
area resize of a fixed camera resolution. Batch: milliseconds per image at 1 and 4 images per
inference. All calls of one question take turns. Writes results/input_form.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from timing import (
    RESULTS,
    Call,
    Timing,
    compiled,
    example,
    in_onnxruntime,
    in_openvino,
    interleaved,
    machine,
)

from sanflow.export.graph import to_onnx
from sanflow.imaging import PixelPath
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow

CAMERA = (1024, 1280)
BATCHES = (1, 4)


def main() -> None:
    """All three questions for one extractor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--extractor", default="mobilenet_v3_large")
    parser.add_argument("--out", type=Path, default=RESULTS / "input_form.json")
    given = parser.parse_args()
    seconds = 8.0 if given.quick else 60.0
    model = SANFlow(SanflowConfig(extractor=given.extractor)).eval()
    graph = to_onnx(model)
    found: dict[str, Any] = {"machine": machine(), "extractor": given.extractor}
    found["layout"] = interleaved(layout(graph), seconds)
    found["resize"] = interleaved(resize(graph), seconds)
    batches = {n: graph if n == 1 else to_onnx(model, n) for n in BATCHES}
    found["batch"] = batch(batches, seconds)
    for question in ("layout", "resize", "batch"):
        print(f"\n{given.extractor}, {question}: median ms, processor ms")
        for name, t in found[question].items():
            print(f"{name:44} {t['ms']:9.2f} {t['cpu_ms']:9.2f}")
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def layout(graph: onnx.ModelProto) -> dict[str, Call]:
    """Both layouts in both engines, from an image as a camera delivers it."""
    image = example(np.dtype("uint8"), (*sides(graph), 3))
    today, planar = graph.SerializeToString(), channels_first(graph).SerializeToString()
    calls: dict[str, Call] = {}
    for engine, run in (("openvino", openvino_on), ("onnxruntime", onnxruntime_on)):
        last, first = run(today), run(planar)
        calls[f"uint8 NHWC, {engine}"] = lambda last=last: last(image[None])
        calls[f"uint8 NCHW, transposed on the host, {engine}"] = lambda first=first: first(
            np.ascontiguousarray(image.transpose(2, 0, 1))[None]
        )
    return calls


def resize(graph: onnx.ModelProto) -> dict[str, Call]:
    """A camera's image to a verdict, resized by cv2 and by the graph."""
    image = example(np.dtype("uint8"), (*CAMERA, 3))
    path = PixelPath(*sides(graph))
    inside = with_resize(graph, CAMERA).SerializeToString()
    calls: dict[str, Call] = {"the pixel path alone (cv2)": lambda: path(image)}
    for engine, run in (("openvino", openvino_on), ("onnxruntime", onnxruntime_on)):
        small, large = run(graph.SerializeToString()), run(inside)
        calls[f"cv2 on the host, {engine}"] = lambda small=small: small(path(image)[None])
        calls[f"matrices in the graph, {engine}"] = lambda large=large: large(image[None])
    return calls


def batch(graphs: dict[int, onnx.ModelProto], seconds: float) -> dict[str, Timing]:
    """Milliseconds per image."""
    calls, sizes = dict[str, Call](), dict[str, int]()
    for count, graph in graphs.items():
        data = graph.SerializeToString()
        for engine, run in (("openvino", in_openvino), ("onnxruntime", in_onnxruntime)):
            name = f"{count} per inference, {engine}"
            calls[name], sizes[name] = run(data, 1), count
    found = interleaved(calls, seconds)
    return {
        name: {k: v if k == "rounds" else round(v / sizes[name], 3) for k, v in t.items()}
        for name, t in found.items()
    }


def channels_first(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without its first transposition, reading (N, 3, H, W)."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    (turn,) = [n for n in made.graph.node if n.name == "/pixels/Transpose"]
    for node in made.graph.node:
        node.input[:] = [turn.input[0] if name == turn.output[0] else name for name in node.input]
    made.graph.node.remove(turn)
    count, height, width, channels = dims(made)
    shape = [count, channels, height, width]
    made.graph.input[0].CopyFrom(
        helper.make_tensor_value_info(made.graph.input[0].name, TensorProto.UINT8, shape)
    )
    del made.graph.value_info[:]
    return made


def with_resize(graph: onnx.ModelProto, camera: tuple[int, int]) -> onnx.ModelProto:
    """The graph on a camera's uint8 image, with A_h X A_w^T after the transposition."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    (turn,) = [n for n in made.graph.node if n.name == "/pixels/Transpose"]
    height, width = sides(graph)
    matrices = {"rows": area(camera[0], height), "columns": area(camera[1], width).T}
    for name, matrix in matrices.items():
        made.graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(matrix, np.float32), name)
        )
    place, small = list(made.graph.node).index(turn), turn.output[0]
    steps = [
        helper.make_node("MatMul", ["turned", "columns"], ["narrow"], "/pixels/columns"),
        helper.make_node("MatMul", ["rows", "narrow"], [small], "/pixels/rows"),
    ]
    turn.output[0] = "turned"
    for step in reversed(steps):
        made.graph.node.insert(place + 1, step)
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = camera[0]
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_value = camera[1]
    del made.graph.value_info[:]
    return made


def area(size: int, small: int) -> NDArray[np.float64]:
    """The (small, size) matrix whose rows average the pixels that each output pixel covers."""
    edges = np.arange(small + 1) * size / small
    low = np.maximum(edges[:-1, None], np.arange(size)[None])
    high = np.minimum(edges[1:, None], np.arange(1, size + 1)[None])
    cover = np.clip(high - low, 0, None)
    return cover / cover.sum(axis=1, keepdims=True)


def openvino_on(graph: bytes) -> Any:
    """A function from pixels to a finished inference."""
    request = compiled(graph, 1).create_infer_request()
    return lambda pixels: request.infer({0: pixels}, share_inputs=True)


def onnxruntime_on(graph: bytes) -> Any:
    """A function from pixels to a finished inference."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"image": pixels})


def dims(graph: onnx.ModelProto) -> list[int]:
    """The input's shape."""
    return [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]


def sides(graph: onnx.ModelProto) -> tuple[int, int]:
    """Height and width of the model input (N, H, W, 3)."""
    _, height, width, _ = dims(graph)
    return height, width


if __name__ == "__main__":
    main()
