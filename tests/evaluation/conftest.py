"""A small test set on disk, and a scorer that knows the truth and blurs it with noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow.bundle import Decision
from sanflow.data.layout import Sample
from sanflow.imaging import PixelPath, write_png

SIDE = 32


@dataclass(frozen=True)
class TestSet:
    """What evaluate() needs."""

    __test__ = False
    root: Path
    samples: tuple[Sample, ...]
    pixel_path: PixelPath
    scorer: Callable[[Path], tuple[float, NDArray[np.float32]]]
    decision: Decision


@pytest.fixture
def parts(tmp_path: Path) -> TestSet:
    """12 good parts, 8 dents and 6 scratches of 48 x 40 pixels; one scratch has no mask."""
    rng = np.random.default_rng(7)
    root = tmp_path / "data"
    samples = []
    strength = {}
    for label, count in (("good", 12), ("dent", 8), ("scratch", 6)):
        (root / "test" / label).mkdir(parents=True)
        (root / "ground_truth" / label).mkdir(parents=True)
        for i in range(count):
            path = root / "test" / label / f"{i:02d}.png"
            image = rng.integers(60, 200, (48, 40, 3)).astype(np.uint8)
            mask = np.zeros((48, 40), np.uint8)
            if label == "dent":
                cv2.circle(mask, (12 + i, 20), 6, 255, -1)
            elif label == "scratch":
                cv2.line(mask, (4, 6 + 4 * i), (34, 9 + 4 * i), 255, 3)
            image[mask > 0] = 20
            write_png(path, image)
            truth = None
            if label != "good" and not (label == "scratch" and i == 5):
                truth = root / "ground_truth" / label / f"{i:02d}_mask.png"
                write_png(truth, mask)
            samples.append(Sample(path, label, truth, f"{label}/{i:02d}"))
            strength[path] = mask
    pixel_path = PixelPath(SIDE, SIDE)

    def scorer(path: Path) -> tuple[float, NDArray[np.float32]]:
        seed = int(hashlib.sha256("/".join(path.parts[-2:]).encode()).hexdigest()[:8], 16)
        noise = np.random.default_rng(seed).uniform(0, 1.2, (SIDE, SIDE))
        truth = cv2.resize(strength[path].astype(np.float32) / 255, (SIDE, SIDE))
        heat = (noise + 0.9 * cv2.GaussianBlur(truth, (0, 0), 1.5)).astype(np.float32)
        return float(heat.max()), heat

    decision = Decision(1.3, 0.05, 1.25, 1.35, 0.2, 2.2)
    return TestSet(root, tuple(samples), pixel_path, scorer, decision)
