"""Blots of irregular shape: where noise of random grain exceeds a threshold (methods 7)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

TURN = 90.0
"""Largest rotation of the noise, degrees."""


def perlin(
    height: int, width: int, cells: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Perlin's noise (height, width) with `cells` gradients along rows and columns, within ±1.

    It is 0 at every corner of a cell; two octaves or a fractal sum are not taken.
    """
    angles = rng.uniform(0, 2 * math.pi, size=(cells[0] + 1, cells[1] + 1))
    gradients = np.stack((np.sin(angles), np.cos(angles)), axis=2)
    y = np.arange(height) * (cells[0] / height)
    x = np.arange(width) * (cells[1] / width)
    row, column = y.astype(np.intp), x.astype(np.intp)
    dy, dx = (y - row)[:, None], (x - column)[None, :]

    def ramp(down: int, right: int) -> NDArray[np.float64]:
        slope = gradients[(row + down)[:, None], (column + right)[None, :]]
        return np.asarray(slope[..., 0] * (dy - down) + slope[..., 1] * (dx - right))

    v, u = _fade(np.asarray(dy)), _fade(np.asarray(dx))
    upper = ramp(0, 0) * (1 - u) + ramp(0, 1) * u
    lower = ramp(1, 0) * (1 - u) + ramp(1, 1) * u
    return math.sqrt(2) * (upper * (1 - v) + lower * v)


def blots(
    height: int, width: int, grains: int, threshold: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Where turned noise exceeds `threshold`, bool (height, width); perhaps nowhere.

    Along each axis the noise has 2^g cells, g drawn from 0 .. grains - 1.
    """
    cells = 2 ** rng.integers(0, grains, size=2)
    noise = perlin(height, width, (int(cells[0]), int(cells[1])), rng).astype(np.float32)
    angle = float(rng.uniform(-TURN, TURN))
    centre = ((width - 1) / 2, (height - 1) / 2)
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    turned = cv2.warpAffine(noise, turn, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(turned > threshold)


def _fade(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """6 t^5 - 15 t^4 + 10 t^3: flat at 0 and 1."""
    return t**3 * (t * (6 * t - 15) + 10)
