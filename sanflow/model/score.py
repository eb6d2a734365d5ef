"""From log-likelihoods per level to one anomaly map and one score per image (methods 1.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import PyramidConfig


def anomaly_map(levels: Sequence[Tensor], level_max: Tensor, config: PyramidConfig) -> Tensor:
    """K - sum_k Up(exp(l^k - m_k)), or sum_k Up(m_k - l^k); (B, H, W), larger is more anomalous.

    Pooled levels, the last ones, count `pool_weight` times; the map is smoothed by `map_sigma`.
    """
    parts = []
    for k, likelihood in enumerate(levels):
        below = likelihood - level_max[k]
        part = 1 - torch.exp(below) if config.fusion == "likelihood" else -below
        if k >= len(config.taps):
            part = config.pool_weight * part
        parts.append(upsample(part, config.height, config.width, config.aligned))
    fused = reduce(torch.add, parts)
    if not config.map_sigma:
        return fused
    rows, columns = (gaussian(n, config.map_sigma, fused) for n in (config.height, config.width))
    return rows @ fused @ columns.T


def gaussian(length: int, sigma: float, like: Tensor) -> Tensor:
    """The matrix (length, length) of a Gaussian filter, `sigma` in pixels, cut off at 4 sigma.

    The outermost value goes on beyond the border; rows sum to 1, so nothing exceeds what was there.
    """
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    places = (torch.arange(length)[:, None] + offsets).clamp(0, length - 1)
    filled = torch.zeros(length, length, dtype=torch.float64)
    filled.scatter_add_(1, places, (weights / weights.sum()).expand(length, -1))
    return filled.to(like)


def upsample(maps: Tensor, height: int, width: int, aligned: bool = True) -> Tensor:
    """Bilinear resize of (B, h, w) to (B, height, width), corners or borders aligned."""
    resized = F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=aligned)
    return resized[:, 0]


def image_score(maps: Tensor, config: PyramidConfig) -> Tensor:
    """The largest map value of each image, or the mean of the top fraction: (B,)."""
    values = maps.flatten(1)
    if config.image_score == "max":
        return values.amax(dim=1)
    count = max(1, round(config.top_fraction * config.height * config.width))
    return values.topk(count, dim=1).values.mean(dim=1)
