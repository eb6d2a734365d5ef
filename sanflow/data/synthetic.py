"""Synthetic anomalies: patches of other good images pasted with soft borders (methods 2.8).

Three kinds as in the paper's supplement B.2 (small rectangle, medium rectangle, circle), in exact
numbers per batch. Every random choice follows from (seed, epoch, step) alone, so that a resumed
run, another number of workers or another machine prepares the same batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .config import SynthConfig
from .variation import varied

KINDS = ("normal", "small", "medium", "circle")
_FAINTEST = 0.1
"""Blending below this is dropped: a mask should end where an eye sees the patch end."""
_GREY = np.array([0.299, 0.587, 0.114])
_SUBPIXEL = 4


@dataclass(frozen=True)
class Synthesiser:
    """Turns good images of one size into batches with exact numbers of each kind."""

    config: SynthConfig
    height: int
    width: int
    seed: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind at each place of a batch: normals first, then small, medium, circle."""
        if not self.config.enabled:
            return ("normal",) * sum(self.config.quotas)
        return tuple(k for k, n in zip(KINDS, self.config.quotas, strict=True) for _ in range(n))

    def batch(
        self,
        normals: Sequence[NDArray[np.uint8]],
        sources: Sequence[NDArray[np.uint8]],
        epoch: int,
        step: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Images uint8 (B, H, W, 3) and masks bool (B, H, W), in the order of `kinds`.

        `normals` are B good images; `sources`, of any number, lend the patches: each patch takes
        one that is not its own target, where there is another. The mask is where blending changed
        the image (alpha > 0).
        """
        kinds = self.kinds
        if len(normals) != len(kinds):
            raise InputError(f"expected {len(kinds)} good images for a batch, got {len(normals)}")
        shape = (self.height, self.width, 3)
        for image in (*normals, *sources):
            if image.shape != shape or image.dtype != np.uint8:
                raise InputError(f"expected uint8 {shape}, got {image.dtype} {image.shape}")
        rng = np.random.default_rng((self.seed, epoch, step))
        images = np.stack(varied(normals, self.config, (self.seed, epoch, step)))
        masks = np.zeros((len(kinds), self.height, self.width), np.bool_)
        for i, kind in enumerate(kinds):
            if kind != "normal":
                others = [s for s in sources if s is not normals[i]] or list(sources)
                if not others:
                    raise InputError("synthetic anomalies need at least one source image")
                source = others[rng.integers(len(others))]
                masks[i] = self._paste(images[i], source, kind, rng)
        return images, masks

    def _paste(
        self,
        image: NDArray[np.uint8],
        source: NDArray[np.uint8],
        kind: str,
        rng: np.random.Generator,
    ) -> NDArray[np.bool_]:
        """Blend one patch into `image` in place; where it changed, bool (H, W)."""
        angle = float(rng.uniform(-self.config.rotation, self.config.rotation))
        alpha = self._alpha(kind, angle, rng)
        patch = _content(source, alpha.shape, angle, rng)
        patch = _jitter(patch, self.config.jitter, rng)
        # A patch that fits lies wholly inside; a larger one covers the image's whole side.
        top, left = (
            int(rng.integers(min(0, room), max(0, room) + 1))
            for room in (self.height - alpha.shape[0], self.width - alpha.shape[1])
        )
        y, x = slice(max(top, 0), top + alpha.shape[0]), slice(max(left, 0), left + alpha.shape[1])
        inside = image[y, x]
        part = (slice(max(-top, 0), None), slice(max(-left, 0), None))
        a = alpha[part][: inside.shape[0], : inside.shape[1]].astype(np.uint16)
        p = patch[part][: inside.shape[0], : inside.shape[1]]
        a3 = a[:, :, None]
        inside[:] = (inside * (255 - a3) + p * a3 + 127) // 255
        mask = np.zeros((self.height, self.width), np.bool_)
        mask[y, x] = a > 0
        return mask

    def _alpha(self, kind: str, angle: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The blending weight of one shape, 0..255, on its own canvas."""
        scale = min(self.height, self.width) / 256
        c = self.config
        if kind == "circle":
            high = wide = 2 * scale * rng.uniform(*c.circle_radius)
        else:
            low_high = (c.small_height, c.small_width)
            if kind == "medium":
                low_high = (c.medium_height, c.medium_width)
            high, wide = (scale * rng.uniform(*sides) for sides in low_high)
        high, wide = max(high, 1.0), max(wide, 1.0)
        # A quarter of the thinner side at most: a wider blur would leave nothing of a thin patch.
        sigma = min(scale * c.blur, min(high, wide) / 4)
        turn = math.radians(angle) if kind != "circle" else 0.0
        cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
        margin = 2 * math.ceil(2 * sigma) + 2
        rows = math.ceil(high * cos + wide * sin) + margin
        columns = math.ceil(wide * cos + high * sin) + margin
        canvas = np.zeros((rows, columns), np.uint8)
        x, y, fine = (columns - 1) / 2, (rows - 1) / 2, 2**_SUBPIXEL
        if kind == "circle":
            middle, radius = (round(x * fine), round(y * fine)), round((wide - 1) / 2 * fine)
            cv2.circle(canvas, middle, radius, 255, -1, cv2.LINE_AA, _SUBPIXEL)
        else:
            corners = np.asarray(cv2.boxPoints(((x, y), (wide - 1, high - 1), angle)))
            points = np.rint(corners * fine).astype(np.int32)
            cv2.fillConvexPoly(canvas, points, 255, cv2.LINE_AA, _SUBPIXEL)
        soft = canvas.astype(np.float32)
        if sigma > 0:
            side = 2 * math.ceil(2 * sigma) + 1
            soft = np.asarray(cv2.GaussianBlur(soft, (side, side), sigma))
        soft *= 255 / soft.max()
        faintest = 255 * _FAINTEST
        soft = np.clip((soft - faintest) / (1 - _FAINTEST), 0, 255)
        return np.asarray(np.rint(soft), dtype=np.uint8)


def _content(
    source: NDArray[np.uint8], size: tuple[int, ...], angle: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A turned and perhaps mirrored piece of `source` from a random place, in one warp."""
    rows, columns = size
    place = rng.uniform(0, 1, size=2) * (source.shape[1] - 1, source.shape[0] - 1)
    flips = rng.choice((-1.0, 1.0), size=2)
    turn = math.radians(angle)
    rotate = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    linear = np.diag(flips) @ rotate
    offset = place - linear @ np.array([(columns - 1) / 2, (rows - 1) / 2])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        source,
        np.column_stack([linear, offset]),
        (columns, rows),
        flags=flags,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(warped, dtype=np.uint8)


def _jitter(
    patch: NDArray[np.uint8], strength: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue, each by up to `strength`.

    All four are affine in RGB (hue turns about the grey axis), so one 3x4 matrix does the work.
    """
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, size=3)
    hue = 2 * math.pi * rng.uniform(-strength, strength)
    if strength == 0:
        return patch
    grey = np.tile(_GREY, (3, 1))
    mean = float(_GREY @ patch.reshape(-1, 3).mean(axis=0)) * brightness
    axis = np.full(3, 1 / math.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = (
        math.cos(hue) * np.eye(3)
        + math.sin(hue) * cross
        + (1 - math.cos(hue)) * np.outer(axis, axis)
    )
    colour = turn @ (saturation * np.eye(3) + (1 - saturation) * grey)
    matrix = colour * contrast * brightness
    offset = colour @ np.full(3, (1 - contrast) * mean)
    return np.asarray(cv2.transform(patch, np.column_stack([matrix, offset])), dtype=np.uint8)
