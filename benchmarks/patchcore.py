"""A PatchCore of the same extractor, taps and size, to be beaten in the same run.

Roth et al., CVPR 2022: taps are averaged 3 x 3, brought to the finest grid and joined; a greedy
coreset of the training patches is the memory; a patch's anomaly is its distance to the memory, the
image's score the largest. Kept to what a fair baseline needs: no re-weighting of the image score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sanflow.imaging import PixelPath
from sanflow.model.sanflow import SANFlow

POOL, MEMORY, PROJECTION, SIGMA = 60_000, 6_000, 64, 4.0


class PatchCore:
    """Memory bank over an extractor's joined taps."""

    def __init__(self, model: SANFlow, pixels: PixelPath, seed: int) -> None:
        self.model, self.pixels = model, pixels
        self.generator = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def fit(self, paths: Sequence[Path]) -> None:
        """Take a uniform pool of all training patches, then its greedy coreset."""
        each = max(1, POOL // len(paths))
        kept = []
        for path in paths:
            patches = self._patches(path)[0].flatten(1).T  # (positions, C)
            chosen = torch.randperm(len(patches), generator=self.generator)[:each]
            kept.append(patches[chosen])
        pool = torch.cat(kept)
        self.memory = pool[list(self._coreset(pool))]
        self.norms = (self.memory**2).sum(dim=1)

    @torch.inference_mode()
    def __call__(self, path: Path) -> tuple[float, NDArray[np.float32]]:
        """Score and anomaly map (height, width) of one image file."""
        patches = self._patches(path)
        rows, columns = patches.shape[2:]
        queries = patches[0].flatten(1).T
        squared = (queries**2).sum(dim=1, keepdim=True) + self.norms - 2 * queries @ self.memory.T
        nearest = squared.amin(dim=1).clamp_min(0).sqrt().view(1, 1, rows, columns)
        size = (self.pixels.height, self.pixels.width)
        grown = F.interpolate(nearest, size, mode="bilinear", align_corners=False)[0, 0]
        return float(nearest.max()), cv2.GaussianBlur(grown.numpy(), (0, 0), SIGMA)

    def _patches(self, path: Path) -> Tensor:
        images = torch.from_numpy(self.pixels.load(path))[None]
        maps = self.model.extractor(self.model.normalise(images))
        maps = [F.avg_pool2d(m, 3, stride=1, padding=1) for m in maps]
        size = maps[0].shape[2:]
        return torch.cat(
            [maps[0]]
            + [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:]],
            dim=1,
        )

    def _coreset(self, pool: Tensor) -> Iterable[int]:
        """Indices chosen greedily, each farthest from those before, in a random projection."""
        shape = (pool.shape[1], PROJECTION)
        points = pool @ torch.randn(shape, generator=self.generator) / PROJECTION**0.5
        distance = torch.full((len(points),), torch.inf)
        chosen = int(torch.randint(len(points), (1,), generator=self.generator))
        for _ in range(min(MEMORY, len(points))):
            yield chosen
            distance = torch.minimum(distance, ((points - points[chosen]) ** 2).sum(dim=1))
            chosen = int(distance.argmax())
