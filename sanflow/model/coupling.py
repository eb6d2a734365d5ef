"""One coupling block: FrEIA's `AllInOneBlock` on maps, with a log-determinant for every position.

FrEIA flattens positions into the batch, or sums the log-determinant over a map, and permutes by
a dense matrix product. SANFlow needs log|det| per position and exports better as 1x1 convolutions
and a gather, so this is the block that is trained; FrEIA's is the oracle of its tests.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .position import PositionCode

UNIT_SCALE = 2 * math.log(math.expm1(5.0))
"""The parameter gamma at which the global scale 0.1 softplus(gamma; beta = 1/2) is 1."""


class Coupling(nn.Module):
    """y' = R(u g + o), u = [y1, y2 exp(s) + t], (s, t) from a subnet of [y1, p] (methods 1.3)."""

    permutation: Tensor

    def __init__(self, channels: int, position_dim: int, clamp: float) -> None:
        super().__init__()
        self.active = channels // 2
        self.passive = channels - self.active
        self.clamp = clamp
        inputs = self.passive + position_dim
        self.first = nn.Conv2d(inputs, 2 * inputs, 1)
        self.last = nn.Conv2d(2 * inputs, 2 * self.active, 1)
        self.global_scale = nn.Parameter(torch.full((1, channels, 1, 1), UNIT_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("permutation", torch.randperm(channels))

    def forward(
        self, y: Tensor, code: PositionCode, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Next variable (B, C, H, W) and log|det| / C of this block at every position (B, H, W)."""
        y1, y2 = y[:, : self.passive], y[:, self.passive :]
        s, t = self._coefficients(y1, code, index)
        u = torch.cat((y1, y2 * torch.exp(s) + t), dim=1)
        scale = self._scale()
        u = u * scale + self.global_offset
        return u.index_select(1, self.permutation), self._log_det(s, scale)

    def inverse(self, y: Tensor, code: PositionCode) -> tuple[Tensor, Tensor]:
        """The variable this block was given, and the log|det| / C of that inverse map."""
        scale = self._scale()
        u = (y.index_select(1, torch.argsort(self.permutation)) - self.global_offset) / scale
        y1, u2 = u[:, : self.passive], u[:, self.passive :]
        s, t = self._coefficients(y1, code, None)
        return torch.cat((y1, (u2 - t) * torch.exp(-s)), dim=1), -self._log_det(s, scale)

    def _coefficients(
        self, y1: Tensor, code: PositionCode, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # W1 [y1; p] + b1 = W1y y1 + (W1p p + b1): the bracket is the same for every image.
        weight, bias = self.first.weight, cast(Tensor, self.first.bias)
        here = code.project(weight[:, self.passive :], index) + bias[:, None, None]
        hidden = F.relu(F.conv2d(y1, weight[:, : self.passive]) + here)
        # Under mixed precision only the products above are rounded: y keeps its own type.
        a = 0.1 * self.last(hidden).to(y1.dtype)
        return self.clamp * torch.tanh(a[:, : self.active]), a[:, self.active :]

    def _scale(self) -> Tensor:
        return 0.1 * F.softplus(self.global_scale, beta=0.5)

    def _log_det(self, s: Tensor, scale: Tensor) -> Tensor:
        # Means, not sums: they stay small whatever C is, which half precision needs.
        share = self.active / (self.active + self.passive)
        return s.mean(dim=1) * share + scale.log().mean()
