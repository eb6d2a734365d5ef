"""The likelihood of the inference model: frozen constants, weighted means, one map (graph 7).

What is summed over channels is a 1x1 convolution with one output: scales that the flow left pending
and every division are its weights. Unlike an engine's ReduceMean it gives the same bits in every
slot of a batch, and it cannot overflow as a sum of squares does in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.config import PyramidConfig
from ..model.likelihood import Spread, clip
from ..model.score import gaussian, image_score
from .deploy import Latents, cells


class Mean(nn.Module):
    """A weighted sum over channels plus a constant: (B, C, H, W) -> (B, 1, H, W)."""

    bias: Tensor | None

    def __init__(self, weight: Tensor, constant: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.view(1, -1, 1, 1), requires_grad=False)
        bias = None if constant is None else nn.Parameter(weight.new_tensor([constant]), False)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


class Constant(nn.Module):
    """The same number for every position of a level whose log-determinant is not scored."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.reshape(1, 1, 1, 1))

    def forward(self, log_det: Tensor) -> Tensor:
        return self.value


class Likelihood(nn.Module):
    """Scores (B,) and maps (B, H, W) of latents; `squares` and `log_dets` hold one Mean a level.

    Without `log_dets` all that is constant lies in `squares`.

    m_k - l^k = 1/2 log var + mean(z^2) / (2 var) - log|det| / C - k0, where a constant variance
    lies in the weights.
    """

    def __init__(
        self, config: PyramidConfig, squares: Sequence[Mean], log_dets: Sequence[Mean | Constant]
    ) -> None:
        super().__init__()
        self.config = config
        self.squares = nn.ModuleList(squares)
        self.log_dets = nn.ModuleList(log_dets)

    def forward(self, latents: Latents) -> tuple[Tensor, Tensor]:
        maps = self._fuse(self.above(latents))
        return image_score(maps, self.config), maps

    def above(self, latents: Latents) -> list[Tensor]:
        """m_k - l^k of every position, (B, 1, H_k, W_k) per level."""
        spreads = self._spreads(latents)
        above = []
        for k, (z, log_det) in enumerate(zip(latents.z, latents.log_det, strict=True)):
            if latents.centre is not None:
                z = z - self._sample(latents.centre, k, int(z.shape[2]))
            square = self.squares[k](z * z)
            if (spread := spreads[k]) is not None:
                square = spread.precision * square + 0.5 * spread.log_variance
            above.append(square + self.log_dets[k](log_det) if len(self.log_dets) else square)
        return above

    def _spreads(self, latents: Latents) -> list[Spread] | list[None]:
        """Per level the variance the head predicts; taps share one calculation at the finest."""
        if latents.gamma is None:
            return [None] * len(latents.z)
        gamma, taps = clip(latents.gamma), len(self.config.taps)
        finest = self._spread(gamma)
        spreads = []
        for k, z in enumerate(latents.z):
            side = int(z.shape[2])
            if k < taps:
                log_variance = self._sample(finest.log_variance, k, side)
                spread = Spread(log_variance, self._sample(finest.precision, k, side))
            else:
                spread = self._spread(cells(gamma, side))
            spreads.append(spread)
        return spreads

    def _spread(self, gamma: Tensor) -> Spread:
        log_a, log_b = gamma[:, :1], gamma[:, 1:]
        if self.config.variance_rule == "mode":
            return Spread.mode(log_a, log_b, self.config.max_variance)
        return Spread.expectation(log_a, log_b)

    def _sample(self, finest: Tensor, k: int, side: int) -> Tensor:
        """Maps of the finest tap at level k: sampled at a tap, averaged in a pool."""
        if k >= len(self.config.taps):
            return cells(finest, side)
        step = self.config.taps[k] // self.config.taps[0]
        return finest if step == 1 else finest[:, :, ::step, ::step]

    def _fuse(self, above: Sequence[Tensor]) -> Tensor:
        """The anomaly map (B, H, W): maps of one size are summed before they are resized.

        Interpolation is linear, and its weights sum to 1: a level of one cell is a constant that
        may be added to any other map.
        """
        ceiling = self.config.fused
        parts: dict[tuple[int, int], Tensor] = {}
        for k, m in enumerate(above):
            part = m if ceiling is None else torch.exp(-m)
            if k >= len(self.config.taps) and self.config.pool_weight != 1:
                part = self.config.pool_weight * part
            size = (int(m.shape[2]), int(m.shape[3]))
            parts[size] = parts[size] + part if size in parts else part
        single = parts.pop((1, 1), None)
        small = [*parts.values()]
        if single is not None:
            small[-1] = small[-1] + single
        if ceiling is not None:
            small = [ceiling - small[0], *(-part for part in small[1:])]
        size = (self.config.height, self.config.width)
        return enlarged(small, size, self.config.aligned, self.config.map_sigma)[:, 0]


def enlarged(
    maps: Sequence[Tensor], size: tuple[int, int], aligned: bool = True, sigma: float = 0.0
) -> Tensor:
    """The sum of maps (B, 1, h, w), each resized linearly to `size` (graph 7), then smoothed.

    Corners are aligned, or else borders. Smoothing is part of the same matrices.

    Rows first, each level by its own matrix; then the columns of all levels, side by side, in one
    product that also sums them: as three resizes and two sums it costs engines ten times as much.
    """
    taller = [
        torch.matmul(interpolation(int(m.shape[2]), size[0], m, aligned, sigma), m) for m in maps
    ]
    wider = [interpolation(int(m.shape[3]), size[1], m, aligned, sigma).T for m in maps]
    return torch.matmul(torch.cat(taller, dim=3), torch.cat(wider))


def interpolation(
    length: int, to: int, like: Tensor, aligned: bool = True, sigma: float = 0.0
) -> Tensor:
    """The matrix (to, length) of linear interpolation with aligned corners, or else borders.

    With `sigma`, of the interpolation and then a Gaussian filter.
    """
    place = torch.arange(to, dtype=torch.float64)
    if aligned:
        place = place * ((length - 1) / max(to - 1, 1))
    else:
        place = ((place + 0.5) * (length / to) - 0.5).clamp(0, length - 1)
    weight = 1 - (place[:, None] - torch.arange(length)).abs()
    weight = weight.clamp_min(0)
    return (gaussian(to, sigma, weight) @ weight if sigma else weight).to(like)
