"""The conditional flow of one level: K coupling blocks from features v to latents z."""

from __future__ import annotations

from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from .coupling import Coupling
from .position import PositionCode


class Flow(nn.Module):
    """z = g(v; p) at every position of an (H, W) map of C channels; positions do not interact."""

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        position_dim: int = 512,
        blocks: int = 8,
        clamp: float = 1.9,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.code = PositionCode(position_dim, height, width)
        self.blocks = nn.ModuleList(Coupling(channels, position_dim, clamp) for _ in range(blocks))

    def forward(self, v: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents z (B, C, H, W) and log|det dz/dv| / C at every position (B, H, W).

        With `index`, v holds only those flat positions, (B, C, n, 1).
        """
        steps = []
        for block in self.blocks:
            v, step = block(v, self.code, index)
            steps.append(step)
        return v, reduce(torch.add, steps)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Features v (B, C, H, W) of latents z, and log|det dv/dz| / C (B, H, W)."""
        steps = []
        for block in reversed(self.blocks):
            z, step = cast(Coupling, block).inverse(z, self.code)
            steps.append(step)
        return z, reduce(torch.add, steps)
