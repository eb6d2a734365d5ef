"""Rounded weights: what is left of their errors on what a layer reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sanflow.calibration import rounding
from sanflow.calibration.ranges import LEVELS
from sanflow.calibration.rounding import compensated, nearest, round_layers, scales
from sanflow.errors import InputError


def layer(inputs: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Weights (4, inputs) and their steps (4, 1)."""
    weights = np.random.default_rng(seed).normal(size=(4, inputs))
    return weights, scales(weights, 0)


def together(inputs: int, seed: int = 0) -> NDArray[np.float64]:
    """The covariance of inputs that vary together, as neighbouring pixels do."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(inputs, 3)) @ rng.normal(size=(3, 500))
    return np.cov(mixed + 0.1 * rng.normal(size=(inputs, 500)))


def left(
    small: NDArray[np.int8],
    weights: NDArray[np.float64],
    steps: NDArray[np.float32],
    covariance: NDArray[np.float64],
) -> float:
    """The variance that the weights' errors add to the layer's outputs."""
    error = small * steps.astype(np.float64) - weights
    return float(np.einsum("oi,ij,oj->", error, covariance, error))


@given(st.integers(1, 40), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_inputs_that_vary_apart_get_the_nearest_weights(inputs: int, seed: int) -> None:
    weights, steps = layer(inputs, seed)
    variances = np.random.default_rng(seed).exponential(size=inputs) + 1e-3
    found = compensated(weights, steps, np.diag(variances))
    assert np.array_equal(found, nearest(weights, steps))


@pytest.mark.parametrize("seed", range(5))
def test_less_is_left_on_inputs_that_vary_together(seed: int) -> None:
    weights, steps = layer(60, seed)
    covariance = together(60, seed)
    found = compensated(weights, steps, covariance)
    assert found.dtype == np.int8
    assert np.abs(found.astype(int)).max() <= LEVELS
    plain = left(nearest(weights, steps), weights, steps, covariance)
    assert left(found, weights, steps, covariance) < plain / 4


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, steps = layer(50)
    covariance = together(50)
    whole = compensated(weights, steps, covariance)
    monkeypatch.setattr(rounding, "BLOCK", 7)
    assert np.array_equal(compensated(weights, steps, covariance), whole)


def test_inputs_that_never_vary() -> None:
    weights, steps = layer(8)
    assert np.array_equal(compensated(weights, steps, np.zeros((8, 8))), nearest(weights, steps))
    covariance = together(8)
    covariance[2], covariance[:, 2] = 0, 0
    assert np.abs(compensated(weights, steps, covariance).astype(int)).max() <= LEVELS


def test_channels_without_weights_have_a_step() -> None:
    weights = np.zeros((2, 3))
    assert np.array_equal(scales(weights, 0), np.ones((2, 1)))
    assert not compensated(weights, scales(weights, 0), together(3)).any()


def graph(weights: NDArray[np.float32], **attributes: object) -> onnx.ModelProto:
    """image uint8 (1, 16, 16, 3) -> a convolution of it."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["maps"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["maps", "weights"], ["found"], "conv", **attributes),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 16, 16, 3])
    result = helper.make_tensor_value_info("found", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(weights, "weights")]
    made = helper.make_graph(nodes, "test", [image], [result], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def smooth(count: int = 4) -> list[NDArray[np.uint8]]:
    """Pictures whose neighbouring pixels are alike."""
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(count, 16, 16, 3)).cumsum(axis=1).cumsum(axis=2)
    return list((128 + 4 * steps).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"dilations": [2, 3], "pads": [0, 1, 2, 1]},
    ],
)
def test_a_layer_is_rounded_for_the_patches_it_reads(attributes: dict[str, list[int]]) -> None:
    weights = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    found = round_layers(graph(weights, **attributes), smooth(), ["conv"])["conv"]
    patches = []
    top, left_, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    for image in smooth():
        maps = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        padded = F.pad(maps, (left_, right, top, bottom))
        strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
        patches.append(F.unfold(padded, (3, 3), dilation=dilations, stride=strides)[0].numpy())
    covariance = np.cov(np.concatenate(patches, axis=1), bias=True)
    wide = weights.astype(np.float64)
    expected = compensated(wide.reshape(5, -1), scales(wide, 0).reshape(5, 1), covariance)
    assert np.array_equal(found, expected.reshape(found.shape))


def test_a_layer_that_reads_windows_is_rounded_for_all_of_them() -> None:
    """The head's windows are one batch, which a layer sees at once."""
    weights = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    halves = graph(weights)
    size = numpy_helper.from_array(np.array([2, 8, 16, 3]), "size")
    halves.graph.initializer.append(size)
    halves.graph.node.insert(1, helper.make_node("Reshape", ["float", "size"], ["halves"], "cut"))
    halves.graph.node[2].input[0] = "halves"
    found = round_layers(halves, smooth(), ["conv"])["conv"]
    maps = torch.from_numpy(np.stack(smooth())).reshape(-1, 8, 16, 3).permute(0, 3, 1, 2).double()
    patches = F.unfold(maps, (3, 3)).permute(1, 0, 2).reshape(27, -1).numpy()
    wide = weights.astype(np.float64)
    covariance = np.cov(patches, bias=True)
    expected = compensated(wide.reshape(5, -1), scales(wide, 0).reshape(5, 1), covariance)
    assert np.array_equal(found, expected.reshape(found.shape))


def test_a_layer_does_not_depend_on_which_others_are_rounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounding, "PATCHES", 50)  # some places of many, drawn
    two = graph(np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32))
    two.graph.node.insert(2, helper.make_node("Conv", ["maps", "weights"], ["other"], "before"))
    alone, both = (round_layers(two, smooth(), layers) for layers in (["conv"], ["before", "conv"]))
    assert np.array_equal(alone["conv"], both["conv"])


def test_a_wide_layer_is_rounded_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    monkeypatch.setattr(rounding, "TOGETHER", 18)
    found = round_layers(graph(weights), smooth(), ["conv"])["conv"]
    assert found.shape == weights.shape
    alone = round_layers(graph(weights), smooth(), ["conv"])["conv"]
    assert np.array_equal(found, alone)
    monkeypatch.setattr(rounding, "TOGETHER", 1)  # a channel each
    assert round_layers(graph(weights), smooth(), ["conv"])["conv"].shape == weights.shape


@pytest.mark.parametrize("varying", [1e-6, 1e-9, 0])
def test_a_large_value_that_never_varies_hides_none_that_does(varying: float) -> None:
    """Of a background that is black in every photograph, say."""
    weights = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    made = graph(weights)
    gains = np.array([37.3, varying, varying], np.float32)
    made.graph.initializer.append(numpy_helper.from_array(gains, "gains"))
    made.graph.node.insert(1, helper.make_node("Mul", ["float", "gains"], ["scaled"], "scaled"))
    made.graph.node[2].input[0] = "scaled"
    images = smooth()
    for image in images:
        image[..., 0] = 211
    found = round_layers(made, images, ["conv"])["conv"]
    patches = []
    for image in images:
        maps = torch.from_numpy(image * gains).permute(2, 0, 1)[None].double()
        patches.append(F.unfold(maps, (3, 3))[0].numpy())
    covariance = np.cov(np.concatenate(patches, axis=1), bias=True)
    covariance[:9], covariance[:, :9] = 0, 0
    wide = weights.astype(np.float64)
    expected = compensated(wide.reshape(5, -1), scales(wide, 0).reshape(5, 1), covariance)
    assert np.array_equal(found, expected.reshape(found.shape))


def test_groups_of_channels_are_left_out() -> None:
    weights = np.ones((3, 1, 3, 3), np.float32)
    assert round_layers(graph(weights, group=3), smooth(), ["conv"]) == {}
    assert round_layers(graph(np.ones((2, 3, 1, 1), np.float32)), smooth(), []) == {}


def test_without_images() -> None:
    with pytest.raises(InputError, match="at least one image"):
        round_layers(graph(np.ones((2, 3, 1, 1), np.float32)), [], ["conv"])
