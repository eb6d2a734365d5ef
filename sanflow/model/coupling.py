"""One coupling block: FrEIA's `AllInOneBlock` on maps, with a log-determinant for every position.

FrEIA flattens positions into the batch, or sums the log-determinant over a map, and permutes by
a dense matrix product. Likelihood maps need log|det| per position, and 1x1 convolutions and a
gather export better, so this is the block that is trained; FrEIA's is the oracle of its tests.
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
    """y' = R(u g + o), u = [y1, y2 exp(s) + t], (s, t) from a subnet of [y1, p] (methods 1.3).

    R is a random permutation, or with `soft` a random rotation; both stay as they are. A `kernel`
    of 3 lets neighbours into the subnet, zeros beyond the border; `ratio` is its hidden width per
    input channel.
    """

    permutation: Tensor
    rotation: Tensor

    def __init__(
        self,
        channels: int,
        position_dim: int,
        clamp: float,
        *,
        kernel: int = 1,
        ratio: float = 2.0,
        soft: bool = False,
    ) -> None:
        super().__init__()
        self.active = channels // 2
        self.passive = channels - self.active
        self.clamp = clamp
        self.soft = soft
        inputs = self.passive + position_dim
        hidden, self.padding = max(1, int(ratio * inputs)), kernel // 2
        self.first = nn.Conv2d(inputs, hidden, kernel, padding=self.padding)
        self.last = nn.Conv2d(hidden, 2 * self.active, kernel, padding=self.padding)
        self.global_scale = nn.Parameter(torch.full((1, channels, 1, 1), UNIT_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(1, channels, 1, 1))
        if soft:
            self.register_buffer("rotation", random_rotation(channels))
        else:
            self.register_buffer("permutation", torch.randperm(channels))

    def forward(
        self, y: Tensor, code: PositionCode | None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Next variable (B, C, H, W) and log|det| / C of this block at every position (B, H, W)."""
        y1, y2 = y[:, : self.passive], y[:, self.passive :]
        s, t = self._coefficients(y1, code, index)
        u = torch.cat((y1, y2 * torch.exp(s) + t), dim=1)
        scale = self._scale()
        u = u * scale + self.global_offset
        return self._mix(u), self._log_det(s, scale)

    def inverse(self, y: Tensor, code: PositionCode | None) -> tuple[Tensor, Tensor]:
        """The variable this block was given, and the log|det| / C of that inverse map."""
        scale = self._scale()
        u = (self._unmix(y) - self.global_offset) / scale
        y1, u2 = u[:, : self.passive], u[:, self.passive :]
        s, t = self._coefficients(y1, code, None)
        return torch.cat((y1, (u2 - t) * torch.exp(-s)), dim=1), -self._log_det(s, scale)

    def matrix(self) -> Tensor:
        """R, (C, C)."""
        if self.soft:
            return self.rotation
        return torch.eye(len(self.permutation), dtype=self.global_scale.dtype)[self.permutation]

    def _mix(self, u: Tensor) -> Tensor:
        return self._rotated(u, self.rotation) if self.soft else u.index_select(1, self.permutation)

    def _unmix(self, y: Tensor) -> Tensor:
        if self.soft:
            return self._rotated(y, self.rotation.T)
        return y.index_select(1, torch.argsort(self.permutation))

    def _rotated(self, y: Tensor, matrix: Tensor) -> Tensor:
        # The variable itself, which mixed precision must not round.
        with torch.autocast(y.device.type, enabled=False):
            return F.conv2d(y, matrix[:, :, None, None])

    def _coefficients(
        self, y1: Tensor, code: PositionCode | None, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # W1 [y1; p] + b1 = W1y y1 + (W1p p + b1): the bracket is the same for every image.
        weight, bias = self.first.weight, cast(Tensor, self.first.bias)
        here = bias[:, None, None]
        if code is not None:
            here = code.project(weight[:, self.passive :], index) + here
        own = F.conv2d(y1, weight[:, : self.passive], padding=self.padding)
        hidden = F.relu(own + here)
        # Under mixed precision only the products above are rounded: y keeps its own type.
        a = 0.1 * self.last(hidden).to(y1.dtype)
        return self.clamp * torch.tanh(a[:, : self.active]), a[:, self.active :]

    def _scale(self) -> Tensor:
        return 0.1 * F.softplus(self.global_scale, beta=0.5)

    def _log_det(self, s: Tensor, scale: Tensor) -> Tensor:
        # Means, not sums: they stay small whatever C is, which half precision needs.
        share = self.active / (self.active + self.passive)
        return s.mean(dim=1) * share + scale.log().mean()


def random_rotation(channels: int) -> Tensor:
    """A rotation (C, C) drawn uniformly from SO(C): Q of a Gaussian matrix, its signs fixed."""
    q, r = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
    rotation: Tensor = q * r.diagonal().sign()
    rotation[:, 0] *= torch.linalg.slogdet(rotation).sign
    # The decomposition's is stored column by column, which NCCL does not send.
    return rotation.to(torch.get_default_dtype()).contiguous()
