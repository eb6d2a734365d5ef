"""The flow of one level: coupling blocks from features v to latents z."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from .coupling import Coupling
from .position import PositionCode


class Conditional(Protocol):
    """What the configurations of methods with conditional flows have in common."""

    @property
    def position_dim(self) -> int: ...

    @property
    def blocks(self) -> int: ...

    @property
    def clamp(self) -> float: ...


class Flow(nn.Module):
    """z = g(v; p) on an (H, W) map of C channels.

    Positions do not interact while every kernel is 1; block i has the kernel i mod their number.
    Without a position code (`position_dim` 0) the flow is unconditional.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        *,
        position_dim: int = 512,
        blocks: int = 8,
        clamp: float = 1.9,
        kernels: Sequence[int] = (1,),
        ratio: float = 2.0,
        soft: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.code = PositionCode(position_dim, height, width) if position_dim else None
        self.blocks = nn.ModuleList(
            Coupling(
                channels,
                position_dim,
                clamp,
                kernel=kernels[i % len(kernels)],
                ratio=ratio,
                soft=soft,
            )
            for i in range(blocks)
        )

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


def conditional_flow(
    config: Conditional, channels: int, height: int, width: int, *, soft: bool = False
) -> Flow:
    """Coupling blocks under the position code (methods 1.2, 1.3), rotated if `soft`."""
    return Flow(
        channels,
        height,
        width,
        position_dim=config.position_dim,
        blocks=config.blocks,
        clamp=config.clamp,
        soft=soft,
    )
