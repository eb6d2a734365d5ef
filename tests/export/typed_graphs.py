"""Small graphs whose node names say their region, to be typed, linted and run."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

node = helper.make_node
EXTRACTOR, FIRST = "/extractor/Conv", "/levels.0/blocks.0/first/Conv"
COUPLING, LIKELIHOOD = "/levels.0/blocks.0/Exp", "/likelihood/Exp"


def graph(
    *nodes: onnx.NodeProto, opset: int = 17, **constants: NDArray[np.generic]
) -> onnx.ModelProto:
    """FP32 x (1, 2, 4, 4) -> y of the same size, by these nodes."""
    shape = (1, 2, 4, 4)
    made = helper.make_graph(
        list(nodes),
        "sanflow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9 if opset > 17 else 8
    )


def weights(*, seed: int = 0) -> NDArray[np.float32]:
    """Of a 1x1 convolution from 2 channels to 2."""
    return np.random.default_rng(seed).normal(0, 1, (2, 2, 1, 1)).astype(np.float32)


def pair(
    place: str, value: str, scale: NDArray[np.floating], zero: NDArray[np.generic], out: str
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]:
    """QuantizeLinear and DequantizeLinear of one value, and their constants."""
    names = [f"{out}_scale", f"{out}_zero"]
    nodes = [
        node("QuantizeLinear", [value, *names], [f"{out}_q"], f"{place}/quantise"),
        node("DequantizeLinear", [f"{out}_q", *names], [out], f"{place}/dequantise"),
    ]
    return nodes, dict(zip(names, (np.asarray(scale), np.asarray(zero)), strict=True))


def quantised(
    *,
    place: str = EXTRACTOR,
    scale: object = np.float32(0.05),
    zero: object = np.int8(0),
    weight_scale: object = np.float32([0.01, 0.02]),
    axis: int = 0,
) -> onnx.ModelProto:
    """One int8 convolution, then an FP32 exp."""
    nodes, constants = pair(place, "x", np.asarray(scale), np.asarray(zero), "a")
    constants |= {
        "w": np.int8([[[[100]], [[-3]]], [[[7]], [[127]]]]),
        "ws": np.asarray(weight_scale),
        "wz": np.zeros(np.shape(weight_scale), np.int8),
    }
    nodes += [
        node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], f"{place}/weight", axis=axis),
        node("Conv", ["a", "wf"], ["c"], place),
        node("Tanh", ["c"], ["y"], LIKELIHOOD),
    ]
    return graph(*nodes, **constants)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type by value name."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {t.name: t.data_type for t in inferred.initializer}
    for info in [*inferred.input, *inferred.value_info, *inferred.output]:
        found[info.name] = info.type.tensor_type.elem_type
    return found
