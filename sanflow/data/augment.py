"""How a picture becomes a foreign texture: three of nine photometric changes (methods 7)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Change = Callable[[Image, np.random.Generator], Image]
CHANGES_PER_PICTURE = 3


def augment(image: Image, rng: np.random.Generator) -> Image:
    """An RGB image uint8 (H, W, 3) after three different ones of `CHANGES`, in random order."""
    for index in rng.permutation(len(CHANGES))[:CHANGES_PER_PICTURE]:
        image = CHANGES[index](image, rng)
    return image


def gamma(image: Image, rng: np.random.Generator) -> Image:
    """Each channel to the power of its own exponent in 0.5 .. 2."""
    values = np.arange(256)[:, None] / 255
    return _look_up(image, 255 * values ** rng.uniform(0.5, 2, size=3))


def brightness(image: Image, rng: np.random.Generator) -> Image:
    """Times 0.8 .. 1.2, plus up to 30 of 255 either way."""
    return _look_up(image, np.arange(256) * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30))


def sharpness(image: Image, rng: np.random.Generator) -> Image:
    """Between a smoothed picture (0) and a sharpened one (2)."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = cv2.filter2D(image, -1, kernel)
    weight = float(rng.uniform(0, 2))
    return np.asarray(cv2.addWeighted(image, weight, smooth, 1 - weight, 0), np.uint8)


def hue(image: Image, rng: np.random.Generator) -> Image:
    """Hue turned by up to 70 degrees and saturation moved by up to 50 of 255, each by itself."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
    turn, more = rng.integers(-35, 36), rng.integers(-50, 51)  # OpenCV counts hue in 2 degrees
    hsv[..., 0] = (hsv[..., 0] + turn) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] + more, 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def solarise(image: Image, rng: np.random.Generator) -> Image:
    """Every second time, values from a threshold in 32 .. 128 on are turned into their negative."""
    threshold, chance = rng.integers(32, 129), rng.random()
    values = np.arange(256)
    return (
        image
        if chance < 0.5
        else _look_up(image, np.where(values < threshold, values, 255 - values))
    )


def posterise(image: Image, rng: np.random.Generator) -> Image:
    """Only the upper 1 to 8 bits of each value are kept."""
    return np.asarray(image & np.uint8(256 - 2 ** rng.integers(0, 8)))


def invert(image: Image, rng: np.random.Generator) -> Image:
    """The negative."""
    return np.asarray(255 - image)


def autocontrast(image: Image, rng: np.random.Generator) -> Image:
    """Each channel stretched to 0 .. 255."""
    low, high = image.min(axis=(0, 1)).astype(float), image.max(axis=(0, 1)).astype(float)
    flat = high <= low
    scale = 255 / np.where(flat, 1, high - low)
    stretched = (np.arange(256)[:, None] - low) * scale
    return _look_up(image, np.where(flat, np.arange(256)[:, None], stretched))


def equalise(image: Image, rng: np.random.Generator) -> Image:
    """Each channel with a flat histogram."""
    return np.stack([cv2.equalizeHist(image[..., c]) for c in range(3)], axis=2).astype(np.uint8)


CHANGES: tuple[Change, ...] = (
    gamma,
    brightness,
    sharpness,
    hue,
    solarise,
    posterise,
    invert,
    autocontrast,
    equalise,
)


def _look_up(image: Image, table: NDArray[np.generic]) -> Image:
    """Every value replaced by the table's entry, (256,) or one column per channel (256, 3)."""
    whole = np.clip(np.rint(np.broadcast_to(table.reshape(256, -1), (256, 3))), 0, 255)
    return np.asarray(cv2.LUT(image, whole.astype(np.uint8)[:, None]), np.uint8)
