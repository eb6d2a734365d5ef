"""Good parts as they might also have come: turned, mirrored, in another light.

What a training set of few parts does not show, and a line will. Every choice follows from
(seed, epoch, step) alone, as all randomness of a batch does.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .config import SynthConfig

Image = NDArray[np.uint8]


def varied(
    images: Sequence[Image], config: SynthConfig, seed: tuple[int, int, int]
) -> Sequence[Image]:
    """Each uint8 image (H, W, 3) by its own draw; the same objects where nothing is asked."""
    for number, (asked, change) in enumerate(
        ((config.turn, _turned), (config.mirror != "none", _mirrored), (config.light, _lit)), 1
    ):
        if asked:
            rng = np.random.default_rng((*seed, number))
            images = change(images, config, rng)
    return images


def _turned(
    images: Sequence[Image], config: SynthConfig, rng: np.random.Generator
) -> Sequence[Image]:
    """About its centre; mirrored where it leaves the frame."""
    turned = []
    for image, part in zip(images, rng.uniform(-1, 1, len(images)), strict=True):
        height, width = image.shape[:2]
        centre = ((width - 1) / 2, (height - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, float(part) * config.turn, 1.0)
        around = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        turned.append(np.asarray(around, np.uint8))
    return turned


def _mirrored(
    images: Sequence[Image], config: SynthConfig, rng: np.random.Generator
) -> Sequence[Image]:
    """Each allowed way every second time."""
    allowed = (config.mirror in ("vertical", "both"), config.mirror in ("horizontal", "both"))
    ways = rng.integers(0, 2, (len(images), 2)) * allowed
    return [
        np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])
        for image, (down, across) in zip(images, ways, strict=True)
    ]


def _lit(images: Sequence[Image], config: SynthConfig, rng: np.random.Generator) -> Sequence[Image]:
    """Brightness and contrast, the latter about the image's mean."""
    lit = []
    factors = 1 + rng.uniform(-config.light, config.light, (len(images), 2))
    for image, (brightness, contrast) in zip(images, factors, strict=True):
        mean = float(image.mean())
        values = brightness * (contrast * (np.arange(256) - mean) + mean)
        table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        lit.append(np.asarray(cv2.LUT(image, table), np.uint8))
    return lit
