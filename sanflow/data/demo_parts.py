"""The demo's data set: photographs of turned flanges, good ones and six kinds of defects.

Good parts differ in place, light, finish and grain as parts of one station do. Defects are drawn
into the part before it is lit, from clearly visible to faint; a mask is where the drawing changed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..imaging import write_png
from .demo_scene import (
    BOLT_RADIUS,
    BOLTS,
    BORE,
    HUB,
    OUTER,
    Field,
    Layers,
    blur,
    bolt_centres,
    build,
    cloud,
    draw_pose,
    expose,
    ramp,
    shade,
)

Picture = tuple[NDArray[np.uint8], NDArray[np.bool_]]
Draw = Callable[[Layers, np.random.Generator], Field]
"""Draws a defect into the layers and returns how much of it covers each pixel, 0 to 1."""


def make_demo_parts(
    root: Path,
    seed: int = 0,
    train: int = 200,
    good: int = 40,
    per_defect: int = 12,
    size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the MVTec layout below `root`: `train` and `good` good parts, masks for the rest.

    The same arguments give the same bytes. Raises InputError if `root` already holds files.
    """
    if root.exists() and any(root.iterdir()):
        raise InputError(f"{root}: is not empty; give a new folder for the demo parts")
    jobs = [("train", "good", i) for i in range(train)] + [("test", "good", i) for i in range(good)]
    jobs += [("test", kind, i) for kind in DEFECTS for i in range(per_defect)]

    def make(job: tuple[str, str, int]) -> None:
        split, kind, index = job
        image, mask = photograph(kind, (seed, *_place(split, kind), index), size)
        name = f"{index:03d}.png"
        _write(root / split / kind / name, image)
        if kind != "good":
            grey = np.where(mask[:, :, None], np.uint8(255), np.uint8(0))
            shown = np.repeat(grey, 3, axis=2)
            _write(root / "ground_truth" / kind / f"{index:03d}_mask.png", shown)

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sanflow-demo") as pool:
        for done, _ in enumerate(pool.map(make, jobs), start=1):
            if progress:
                progress(done, len(jobs))


def photograph(kind: str, seed: tuple[int, ...], size: int) -> Picture:
    """One part, uint8 (size, size, 3), with a defect of `kind` or "good", and its mask."""
    rng = np.random.default_rng(seed)
    pose = draw_pose(rng)
    hole = int(rng.integers(BOLTS)) if kind == "missing_hole" else None
    radii = tuple(0.0 if i == hole else BOLT_RADIUS for i in range(BOLTS))
    layers = build(pose, size, radii)
    if hole is not None:
        centre_x, centre_y = bolt_centres()[hole]
        reach = np.hypot(layers.x - np.float32(centre_x), layers.y - np.float32(centre_y))
        covered = ramp(np.asarray(BOLT_RADIUS - reach, np.float32), 0.01)
    elif kind == "good":
        covered = np.zeros_like(layers.height)
    else:
        covered = DEFECTS[kind](layers, rng)
    share = cv2.resize(covered, (size, size), interpolation=cv2.INTER_AREA)
    return expose(shade(layers, pose), rng), np.asarray(share > 0.3)


def _scratch(layers: Layers, rng: np.random.Generator) -> Field:
    """A bent furrow through the turning marks, its edges bright."""
    x0, y0 = _spot(layers, rng)
    angle, length, bend = rng.uniform(0, math.pi), rng.uniform(0.22, 0.5), rng.uniform(-0.5, 0.5)
    along = np.float32(math.cos(angle)) * (layers.x - x0) + math.sin(angle) * (layers.y - y0)
    across = -np.float32(math.sin(angle)) * (layers.x - x0) + math.cos(angle) * (layers.y - y0)
    across = across - np.float32(bend) * along**2
    width, half = rng.uniform(0.008, 0.014), length / 2
    ends = ramp(np.asarray(half - np.abs(along), np.float32), 0.04)
    furrow = np.asarray(np.exp(-((across / width) ** 2)) * ends * layers.coverage, np.float32)
    strength = np.float32(rng.uniform(0.5, 1.2))
    layers.height -= np.float32(0.012) * strength * furrow
    layers.albedo *= 1 + np.float32(0.5) * strength * furrow[:, :, None]
    layers.roughness += np.float32(0.25) * strength * furrow
    return ramp(furrow - np.float32(0.25), 0.1)


def _dent(layers: Layers, rng: np.random.Generator) -> Field:
    """A shallow round hollow that bends the highlight."""
    x0, y0 = _spot(layers, rng)
    radius = rng.uniform(0.045, 0.085)
    reach = np.hypot(layers.x - x0, (layers.y - y0) * np.float32(rng.uniform(0.8, 1.25)))
    hollow = np.asarray(np.exp(-((reach / (0.6 * radius)) ** 2)) * layers.coverage, np.float32)
    layers.height -= np.float32(radius * rng.uniform(0.18, 0.4)) * hollow
    return ramp(hollow - np.float32(0.1), 0.1)


def _stain(layers: Layers, rng: np.random.Generator) -> Field:
    """A ragged discoloured patch, as of oil or heat."""
    shape = _blot(layers, rng, rng.uniform(0.09, 0.17), ragged=0.45)
    strength = np.float32(rng.uniform(0.25, 0.6))
    tint = np.array([0.75, 0.95, 1.25], np.float32)
    layers.albedo *= 1 - strength * shape[:, :, None] * tint
    layers.roughness += np.float32(0.2) * strength * shape
    return ramp(shape - np.float32(0.3), 0.1)


def _chip(layers: Layers, rng: np.random.Generator) -> Field:
    """A piece broken out of the rim or of the bore's edge."""
    edge = OUTER if rng.random() < 0.7 else BORE
    angle = rng.uniform(0, 2 * math.pi)
    spot = (edge * math.cos(angle), edge * math.sin(angle))
    gone = _blot(layers, rng, rng.uniform(0.05, 0.09), ragged=0.3, spot=spot) * layers.coverage
    layers.height -= np.float32(0.02) * blur(gone, 2.0)
    layers.coverage *= 1 - gone
    return np.asarray(gone, np.float32)


def _contamination(layers: Layers, rng: np.random.Generator) -> Field:
    """A fibre or a curl of swarf lying on the part."""
    x0, y0 = _spot(layers, rng)
    n = layers.height.shape[0]
    steps = np.linspace(0, 1, 60)
    heading = (
        rng.uniform(0, 2 * math.pi)
        + np.cumsum(rng.normal(0, 0.09, 60))
        + steps * rng.normal(0, 2.5)
    )
    stride = rng.uniform(0.15, 0.3) / 60
    path = np.stack((np.cumsum(np.cos(heading)), np.cumsum(np.sin(heading))), axis=1) * stride
    place = np.unravel_index(np.argmin(np.hypot(layers.x - x0, layers.y - y0)), (n, n))
    points = path * (n / 2) + np.array([place[1], place[0]])
    canvas = np.zeros((n, n), np.uint8)
    thick = max(1, round(n / 512 * rng.uniform(3, 6)))
    cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, 255, thick, cv2.LINE_AA)
    opacity = blur(canvas.astype(np.float32) / np.float32(255), 0.7)
    colours = ((0.42, 0.10, 0.06), (0.05, 0.09, 0.28), (0.55, 0.5, 0.42), (0.03, 0.03, 0.03))
    layers.on_top.append((opacity, colours[int(rng.integers(len(colours)))], 0.015))
    return opacity


DEFECTS: dict[str, Draw] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "chip": _chip,
    "contamination": _contamination,
    "missing_hole": lambda layers, rng: np.zeros_like(layers.height),  # drawn by the drill
}


def _spot(layers: Layers, rng: np.random.Generator) -> tuple[float, float]:
    """A place on the metal, away from holes and rims."""
    centres = bolt_centres()
    while True:
        radius = math.sqrt(rng.uniform((HUB + 0.03) ** 2, (OUTER - 0.09) ** 2))
        angle = rng.uniform(0, 2 * math.pi)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        if all(math.hypot(x - cx, y - cy) > BOLT_RADIUS + 0.05 for cx, cy in centres):
            return x, y


def _blot(
    layers: Layers,
    rng: np.random.Generator,
    radius: float,
    ragged: float,
    spot: tuple[float, float] | None = None,
) -> Field:
    """A blot of about `radius` with a ragged edge, 1 inside."""
    x0, y0 = spot or _spot(layers, rng)
    reach = np.hypot(layers.x - x0, layers.y - y0)
    edge = cloud(rng, layers.height.shape[0], 16) * np.float32(ragged * radius * 0.4)
    inside = ramp(np.float32(radius) - reach + edge, 0.3 * radius)
    return np.asarray(inside * layers.coverage if spot is None else inside, np.float32)


def _place(split: str, kind: str) -> tuple[int, int]:
    """Numbers that keep the random streams of the folders apart."""
    return ("train", "test").index(split), ("good", *DEFECTS).index(kind)


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, image)
