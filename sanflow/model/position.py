"""The 2-D sinusoidal position code: half its channels know only the column, half only the row.

Because it is the same for every image and separable, W p costs one product with (D/2, W) and one
with (D/2, H) instead of one with (D, H W) for each image of the batch (methods 9.1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(channels: int, length: int) -> Tensor:
    """sin and cos of the index at `channels / 2` frequencies, interleaved: (channels, length)."""
    step = -math.log(10000.0) / channels
    frequencies = torch.exp(torch.arange(0, channels, 2, dtype=torch.float64) * step)
    angle = frequencies[:, None] * torch.arange(length, dtype=torch.float64)
    return torch.stack((angle.sin(), angle.cos()), dim=1).reshape(channels, length)


class PositionCode(nn.Module):
    """Position vectors p of an (H, W) map in `dim` channels: column code first, row code second."""

    columns: Tensor
    rows: Tensor

    def __init__(self, dim: int, height: int, width: int) -> None:
        super().__init__()
        half, dtype = dim // 2, torch.get_default_dtype()
        columns, rows = sinusoids(half, width).to(dtype), sinusoids(half, height).to(dtype)
        self.register_buffer("columns", columns[None, :, None, :], persistent=False)
        self.register_buffer("rows", rows[None, :, :, None], persistent=False)

    def forward(self) -> Tensor:
        """The whole code, (1, D, H, W)."""
        height, width = self.rows.shape[2], self.columns.shape[3]
        columns = self.columns.expand(-1, -1, height, -1)
        return torch.cat((columns, self.rows.expand(-1, -1, -1, width)), dim=1)

    def project(self, weight: Tensor, index: Tensor | None = None) -> Tensor:
        """W p for every position, (1, O, H, W); `index` picks flat positions, (1, O, n, 1).

        `weight` is a 1x1 convolution's, (O, D, 1, 1).
        """
        by_column, by_row = weight.chunk(2, dim=1)
        projected = F.conv2d(self.columns, by_column) + F.conv2d(self.rows, by_row)
        return projected if index is None else take(projected, index)


def take(maps: Tensor, index: Tensor) -> Tensor:
    """The positions `index` (flat, row-major) of maps (B, C, H, W), as a map (B, C, n, 1)."""
    return maps.flatten(2).index_select(2, index)[..., None]
