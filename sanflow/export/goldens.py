"""The golden samples of a bundle: real good parts, and synthetic anomalies pasted on them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import imaging
from ..bundle import manifest
from ..data.config import SynthConfig
from ..data.synthetic import Synthesiser
from ..errors import InputError
from ..runtime.parity import Reference

GOOD = 6
"""Good parts among the goldens, where there are as many."""
ANOMALIES = (1, 2, 2, 2)
"""Of each batch of synthetic images: one untouched (left out), two of each kind."""


@dataclass(frozen=True)
class Goldens:
    """Images with PyTorch's word on them, ready to be written."""

    images: NDArray[np.uint8]  # (N, H, W, 3)
    kinds: tuple[manifest.Kind, ...]
    scores: tuple[float, ...]
    maps: NDArray[np.float32]  # (N, H, W)

    def entries(self) -> tuple[manifest.GoldenEntry, ...]:
        """Their entries in the manifest."""
        return tuple(
            manifest.GoldenEntry(manifest.golden_name(index), score, kind)
            for index, (score, kind) in enumerate(zip(self.scores, self.kinds, strict=True))
        )

    def contents(self) -> dict[str, bytes]:
        """Their files in the bundle."""
        maps = io.BytesIO()
        np.save(maps, self.maps, allow_pickle=False)
        images = {
            manifest.golden_name(i): imaging.encode_png(image)
            for i, image in enumerate(self.images)
        }
        return {**images, manifest.MAPS: maps.getvalue()}


def make_goldens(
    good: Sequence[NDArray[np.uint8]], synth: SynthConfig, reference: Reference
) -> Goldens:
    """Goldens of good model inputs (H, W, 3), ordered by score: the same ones every time.

    The good ones span the scores from the lowest to the highest. Raises InputError when PyTorch
    itself has no finite score for one of them.
    """
    count = min(GOOD, len(good))
    chosen = [good[i] for i in np.linspace(0, len(good) - 1, count).round().astype(int)]
    anomalies = _anomalies(good, synth, manifest.MIN_GOLDENS - count)
    images = np.stack([*chosen, *anomalies])
    judged = [reference(image) for image in images]
    scores, maps = tuple(score for score, _ in judged), np.stack([heat for _, heat in judged])
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise InputError("the model's own scores of the goldens are not finite; train it again")
    kinds: list[manifest.Kind] = ["good" if i < count else "anomaly" for i in range(len(images))]
    return Goldens(images, tuple(kinds), scores, np.asarray(maps, "<f4", order="C"))


def _anomalies(
    good: Sequence[NDArray[np.uint8]], synth: SynthConfig, needed: int
) -> list[NDArray[np.uint8]]:
    height, width = good[0].shape[:2]
    config = dataclasses.replace(synth, enabled=True, quotas=ANOMALIES)
    synthesiser = Synthesiser(config, height, width, seed=0)
    made: list[NDArray[np.uint8]] = []
    while len(made) < max(needed, sum(ANOMALIES[1:])):
        bases = [good[(len(made) + i) % len(good)] for i in range(sum(ANOMALIES))]
        images, _ = synthesiser.batch(bases, good, epoch=0, step=len(made))
        made.extend(images[ANOMALIES[0] :])
    return made
