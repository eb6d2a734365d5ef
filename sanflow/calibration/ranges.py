"""How large each inner value of a graph gets on real parts: what one step of int8 is worth.

An absolute maximum per tensor, taken over the same images by one of four rules, and the mean of
each channel, from which the bias that rounded weights add is known. Two passes over the images, so
that memory does not grow with their number: the first finds the largest absolute value, the second
fills a histogram of absolute values up to it.

    minmax      the largest value seen
    percentile  the value that a share 1 - PERCENTILE of all values exceeds
    mse         the one whose quantisation error, rounding and clipping, is smallest in the mean
    entropy     the one whose quantised distribution loses the least information (Kullback-Leibler)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import InputError
from .inner import Inner

Method = Literal["minmax", "percentile", "mse", "entropy"]
PERCENTILE = 0.9999
BINS = 8192
LEVELS = 127
"""Steps of int8 on either side of zero."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Ranges:
    """The absolute maximum of each tensor; larger values clip."""

    method: Method
    count: int
    """Images they were taken from."""
    maxima: Mapping[str, float]
    means: Mapping[str, tuple[float, ...]]
    """Of each channel (axis 1)."""
    growth: float
    """By how much the maxima still grew over the second half of the images, in the mean."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def maximum(self, tensor: str) -> float:
        """The range of a tensor; InputError if it was not observed."""
        return self.maxima[self._known(tensor)]

    def mean(self, tensor: str) -> NDArray[np.float64]:
        """The channel means of a tensor (C,); InputError if it was not observed."""
        return np.array(self.means[self._known(tensor)])

    def _known(self, tensor: str) -> str:
        if tensor not in self.maxima:
            raise InputError(
                f"no range was observed for {tensor!r}, only for {len(self.maxima)} others; "
                "observe the tensors of the same graph and plan"
            )
        return tensor


def observe(
    graph: onnx.ModelProto,
    images: Iterable[NDArray[np.uint8]],
    tensors: Collection[str],
    method: Method,
    percentile: float = PERCENTILE,
) -> Ranges:
    """Ranges of inner values of `graph` over images uint8 (H, W, 3), which are gone through twice.

    Raises InputError when there is no image, when the images cannot be gone through twice, when a
    tensor is none of the graph's, or when a value is not finite.
    """
    return derive(histograms(graph, images, tensors), method, percentile)


@dataclass(frozen=True)
class Histograms:
    """Absolute values of each tensor: their largest one per image, and how often each occurs."""

    tensors: tuple[str, ...]
    peaks: NDArray[np.float64]
    """(images, tensors)."""
    counts: Mapping[str, Counts]
    """BINS equal bins from 0 to the largest peak."""
    means: Mapping[str, NDArray[np.float64]]
    """Per channel, (C,)."""


def histograms(
    graph: onnx.ModelProto, images: Iterable[NDArray[np.uint8]], tensors: Collection[str]
) -> Histograms:
    """What `observe` derives ranges from; several methods can share it."""
    if iter(images) is images:
        raise InputError("the images are gone through twice: give a list, not an iterator")
    inner = Inner(graph, tensors)
    peaks = np.array([[float(np.abs(v).max()) for v in inner(image)] for image in images])
    if not len(peaks):
        raise InputError("ranges need at least one image")
    if not np.isfinite(peaks).all():
        worst = inner.tensors[int(np.argmin(np.isfinite(peaks).all(axis=0)))]
        raise InputError(f"{worst} has values that are not finite; train the run again")
    top = np.where(peaks.max(axis=0) > 0, peaks.max(axis=0), 1)
    counts = {name: np.zeros(BINS, np.int64) for name in inner.tensors}
    means: dict[str, NDArray[np.float64]] = {}
    for image in images:
        for name, limit, values in zip(inner.tensors, top, inner(image), strict=True):
            places = (np.abs(values).reshape(-1) * np.float32(BINS / limit)).astype(np.int32)
            counts[name] += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
            others = tuple(axis for axis in range(values.ndim) if axis != 1)
            mean = values.mean(axis=others, dtype=np.float64) / len(peaks)
            means[name] = means.get(name, 0) + mean
    return Histograms(inner.tensors, peaks, counts, means)


def derive(found: Histograms, method: Method, percentile: float = PERCENTILE) -> Ranges:
    """The ranges that `method` gives."""
    if method not in get_args(Method):
        raise InputError(f"range method {method!r} is not one of {', '.join(get_args(Method))}")
    maxima = {}
    for name, peak in zip(found.tensors, found.peaks.max(axis=0).tolist(), strict=True):
        if method == "minmax" or peak == 0:
            share = 1.0
        elif method == "percentile":
            share = _percentile(found.counts[name], percentile)
        elif method == "mse":
            share = _least(found.counts[name], _squares)
        else:
            share = _least(found.counts[name], _divergence)
        maxima[name] = peak * share
    means = {name: tuple(values.tolist()) for name, values in found.means.items()}
    half = found.peaks[: (len(found.peaks) + 1) // 2].max(axis=0, initial=0)
    whole = found.peaks.max(axis=0)
    grew = np.divide(whole, half, out=np.ones_like(whole), where=half > 0) - 1
    growth = float(grew.mean()) if grew.size else 0.0
    return Ranges(method, len(found.peaks), maxima, means, growth)


def _percentile(counts: Counts, percentile: float) -> float:
    below = np.cumsum(counts)
    return float(np.searchsorted(below, percentile * below[-1]) + 1) / BINS


def _least(counts: Counts, loss: Any) -> float:
    """The clipping place, as a share of the largest value, where `loss(counts, place)` is least."""
    places = np.unique(np.geomspace(LEVELS + 1, BINS, 160).round().astype(int))
    return float(places[int(np.argmin([loss(counts, int(place)) for place in places]))]) / BINS


def _squares(counts: Counts, place: int) -> float:
    values = np.arange(BINS) + 0.5
    step = place / LEVELS
    rounded = np.minimum(np.round(values / step), LEVELS) * step
    # Within one bin values differ: what rounding to a step finer than a bin would lose.
    return float(counts @ (values - rounded) ** 2)


def _divergence(counts: Counts, place: int) -> float:
    """Kullback-Leibler divergence of the clipped distribution from its quantised form."""
    kept = counts[:place].astype(np.float64)
    kept[0] = kept[1]  # zeros that a Relu made are exact in any case, and would outweigh the rest
    wanted = kept.copy()
    wanted[-1] += counts[place:].sum()
    level = np.minimum((np.arange(place) * LEVELS) // place, LEVELS - 1)
    mass = np.bincount(level, weights=kept, minlength=LEVELS)
    filled = np.bincount(level, weights=kept > 0, minlength=LEVELS)
    spread = np.where(kept > 0, (mass / np.maximum(filled, 1))[level], 0.0)
    p, q = wanted / wanted.sum(), spread / max(spread.sum(), 1.0)
    seen = p > 0
    # A bin that holds only what was clipped has no counterpart: it counts as one value would.
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1 / wanted.sum()))).sum())
