"""Int8 weights whose errors cancel on what a layer reads.

Rounded one by one, weights err independently of each other, and inputs that vary together, as
neighbouring pixels do, add the errors up. Here each weight is rounded in turn and what it lost is
handed on to the weights that are not rounded yet, so that as little as possible is left of it on
inputs of this covariance (GPTQ: Frantar et al., ICLR 2023, after Optimal Brain Surgeon). Means play
no part: what errors add to them, the bias takes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..errors import InputError
from .inner import Inner
from .ranges import LEVELS

PATCHES = 256
"""Places of one image that a layer is looked at, drawn at random."""
TOGETHER = 1152
"""Inputs whose covariances are known, as many as 128 channels of 3 x 3; a wider layer has several
such groups, which are rounded apart from each other."""
DAMPING = 0.01
"""Added to every variance, as a share of their mean: some inputs hardly vary at all."""
BLOCK = 128
"""Inputs after which the others hear of what was lost, for speed; the result is the same."""

Weights = NDArray[np.float64]


def round_layers(
    graph: onnx.ModelProto, images: Iterable[NDArray[np.uint8]], layers: Sequence[str]
) -> dict[str, NDArray[np.int8]]:
    """The int8 weights of the convolutions named `layers`, in steps of `scales`; by node name.

    `images` are uint8 (H, W, 3). Convolutions in groups of channels are left out. Raises
    InputError when there is no image.
    """
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    convolutions = [
        _Convolution(node, numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64))
        for node in graph.graph.node
        if node.name in set(layers) and _attribute(node, "group", 1) == 1
    ]
    if not convolutions:
        return {}
    inner = Inner(graph, [layer.reads for layer in convolutions])
    count = 0
    for image in images:
        values = dict(zip(inner.tensors, inner(image), strict=True))
        for layer in convolutions:
            layer.look(values[layer.reads])
        count += 1
    if not count:
        raise InputError("rounding weights needs at least one image")
    return {layer.name: layer.rounded() for layer in convolutions}


def scales(weights: NDArray[np.floating], axis: int) -> NDArray[np.float32]:
    """The step of each output channel along `axis`: its largest weight is 127 of them."""
    others = tuple(a for a in range(weights.ndim) if a != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    return np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)


def nearest(weights: NDArray[np.floating], steps: NDArray[np.floating]) -> NDArray[np.int8]:
    """Each weight for itself, in `steps` that broadcast to the weights."""
    return np.clip(np.round(weights / steps), -LEVELS, LEVELS).astype(np.int8)


def compensated(
    weights: Weights, steps: NDArray[np.float32], covariance: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Weights (O, n) in steps (O, 1), rounded for inputs of this covariance (n, n)."""
    variances = np.diag(covariance)
    mean = float(variances.mean())
    if not mean > 0:
        return nearest(weights, steps)
    order = np.argsort(-variances, kind="stable")  # what counts most has most others to lean on
    damped = covariance[np.ix_(order, order)] + DAMPING * mean * np.eye(len(order))
    # Row i of this root says how the inputs after i make up for input i.
    root = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, step = weights[:, order].copy(), steps[:, 0].astype(np.float64)
    found = np.empty_like(left, dtype=np.int8)
    for first in range(0, len(order), BLOCK):
        block = slice(first, min(first + BLOCK, len(order)))
        lost = np.empty((len(left), block.stop - first))
        for column in range(first, block.stop):
            small = nearest(left[:, column], step)
            error = (left[:, column] - small * step) / root[column, column]
            left[:, column : block.stop] -= np.outer(error, root[column, column : block.stop])
            found[:, column], lost[:, column - first] = small, error
        left[:, block.stop :] -= lost @ root[block, block.stop :]
    return found[:, np.argsort(order)]


class _Convolution:
    """One layer's weights (O, C, h, w), and the moments of what it reads."""

    def __init__(self, node: onnx.NodeProto, weights: Weights) -> None:
        self.name, self.reads = str(node.name), str(node.input[0])
        self._weights = weights
        self._kernel = weights.shape[2:]
        self._strides = _attribute(node, "strides", [1, 1])
        self._dilations = _attribute(node, "dilations", [1, 1])
        self._pads = _attribute(node, "pads", [0, 0, 0, 0])
        channels = max(1, TOGETHER // (self._kernel[0] * self._kernel[1]))
        self._groups = [
            slice(first, min(first + channels, weights.shape[1]))
            for first in range(0, weights.shape[1], channels)
        ]
        # Its own, so that a layer does not depend on which others are rounded.
        self._rng = np.random.default_rng(0)
        self._count = 0
        # Moments are taken about the first patch seen: about zero, patches that are all alike, as
        # those of a background, would leave nothing but rounding, and variances below zero.
        self._origin: NDArray[np.float64] | None = None
        self._sums = [np.zeros(self._inputs(group)) for group in self._groups]
        self._squares = [np.zeros((self._inputs(group),) * 2) for group in self._groups]

    def look(self, values: NDArray[np.float32]) -> None:
        """Count in some places of the layer's inputs (N, C, H, W): the head's N are its windows."""
        top, left, bottom, right = self._pads
        padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
        (high, wide), (down, across) = self._kernel, self._dilations
        shape = ((high - 1) * down + 1, (wide - 1) * across + 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, shape, axis=(2, 3))
        windows = windows[:, :, :: self._strides[0], :: self._strides[1], ::down, ::across]
        count, _, rows, columns, _, _ = windows.shape
        chosen = self._rng.permutation(count * rows * columns)[:PATCHES]
        places = np.unravel_index(chosen, (count, rows, columns))
        patches = windows[places[0], :, places[1], places[2]].astype(np.float64)  # (n, C, h, w)
        if self._origin is None:
            self._origin = patches[0].copy()
        patches -= self._origin
        for group, sums, squares in zip(self._groups, self._sums, self._squares, strict=True):
            inputs = patches[:, group].reshape(len(chosen), -1).T
            sums += inputs.sum(axis=1)
            squares += inputs @ inputs.T
        self._count += len(chosen)

    def rounded(self) -> NDArray[np.int8]:
        """The layer's int8 weights."""
        steps, made = scales(self._weights, 0), []
        outputs = len(self._weights)
        for group, sums, squares in zip(self._groups, self._sums, self._squares, strict=True):
            means = sums / self._count
            part = self._weights[:, group].reshape(outputs, -1)
            covariance = squares / self._count - np.outer(means, means)
            small = compensated(part, steps.reshape(outputs, 1), covariance)
            made.append(small.reshape(outputs, -1, *self._kernel))
        return np.concatenate(made, axis=1)

    def _inputs(self, group: slice) -> int:
        return int((group.stop - group.start) * self._kernel[0] * self._kernel[1])


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = [a for a in node.attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else default
