"""The flow of image-level methods: two-way couplings of the class token, fed by patch tokens.

Each block transforms both halves of the class token, the second given the first's new value
(methods 5). The patch tokens are never changed, only permuted with the class token; every block
picks its halves straight from the tokens as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

SOFTNESS = 0.636
"""2 / pi, as the released code writes it."""
LIMIT = 1e6
"""Class tokens are clipped to this after every block."""

Attention = Callable[[int], nn.Module]
"""Makes what a half of w channels sees in the patch tokens: (B, w), (B, G, n, w) -> (B, 2 w)."""


class Subnet(nn.Module):
    """s and t of one half of the class token and the same half of the patch tokens.

    [MLP(y), gamma attention(y, tokens)] through one last layer, to (B, 2 outputs).
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, attention: nn.Module) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.attention = attention
        self.gamma = nn.Parameter(torch.ones(2 * inputs))
        self.last = nn.Linear(hidden + 2 * inputs, 2 * outputs)

    def forward(self, y: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.gamma * self.attention(y, tokens)
        # Under mixed precision only the products are rounded, as in the other couplings.
        s, t = self.last(torch.cat((self.mlp(y), seen), dim=1)).to(y.dtype).chunk(2, dim=1)
        return s, t


class FusionCoupling(nn.Module):
    """y1' = y1 exp(e(s2)) + t2, (s2, t2) of (y2, x2); y2' = y2 exp(e(s1)) + t1, of (y1', x1).

    e(s) = 0.636 clamp atan(s / clamp), so |e| < clamp. d is even.
    """

    def __init__(self, width: int, hidden: int, clamp: float, attention: Attention) -> None:
        super().__init__()
        half = width // 2
        self.clamp = clamp
        self.first = Subnet(half, half, hidden, attention(half))
        self.second = Subnet(half, half, hidden, attention(half))

    def forward(self, y: Tensor, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """The next class token (B, d) and log|det| / d (B,)."""
        y1, y2 = y.chunk(2, dim=1)
        s2, t2 = self.second(y2, x2)
        e2 = self._log_scale(s2)
        y1 = y1 * torch.exp(e2) + t2
        s1, t1 = self.first(y1, x1)
        e1 = self._log_scale(s1)
        y2 = y2 * torch.exp(e1) + t1
        return torch.cat((y1, y2), dim=1), (e1.mean(dim=1) + e2.mean(dim=1)) / 2

    def inverse(self, y: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
        """The class token this block was given."""
        y1, y2 = y.chunk(2, dim=1)
        s1, t1 = self.first(y1, x1)
        y2 = (y2 - t1) * torch.exp(-self._log_scale(s1))
        s2, t2 = self.second(y2, x2)
        return torch.cat(((y1 - t2) * torch.exp(-self._log_scale(s2)), y2), dim=1)

    def _log_scale(self, s: Tensor) -> Tensor:
        return SOFTNESS * self.clamp * torch.atan(s / self.clamp)


class FusionFlow(nn.Module):
    """z = g(y; x) of the class token y (B, d) and unchanged patch tokens x (B, G, n, d)."""

    order: Tensor

    def __init__(
        self, width: int, hidden: int, blocks: int, clamp: float, attention: Attention
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"{width} channels have no halves")
        self.blocks = nn.ModuleList(
            FusionCoupling(width, hidden, clamp, attention) for _ in range(blocks)
        )
        self.register_buffer("order", torch.stack([torch.randperm(width) for _ in range(blocks)]))

    def forward(self, y: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Latents z (B, d) and log|det dz/dy| / d (B,)."""
        steps = []
        for block, order, (x1, x2) in zip(
            self.blocks, self.order, self._halves(tokens), strict=True
        ):
            y, step = block(y.index_select(1, order), x1, x2)
            y = y.clamp(-LIMIT, LIMIT)
            steps.append(step)
        return y, reduce(torch.add, steps)

    def inverse(self, z: Tensor, tokens: Tensor) -> Tensor:
        """The class token of latents that no clipping touched."""
        states = list(zip(self.blocks, self.order, self._halves(tokens), strict=True))
        for block, order, (x1, x2) in reversed(states):
            y = cast(FusionCoupling, block).inverse(z, x1, x2)
            z = y.index_select(1, torch.argsort(order))
        return z

    def _halves(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each block's halves of the tokens: its permutation after all earlier ones."""
        halves, place = [], torch.arange(self.order.shape[1], device=self.order.device)
        for order in self.order:
            place = place.index_select(0, order)
            x1, x2 = (tokens.index_select(3, half) for half in place.chunk(2))
            halves.append((x1, x2))
        return halves


def fusion_loss(z: Tensor, log_det: Tensor) -> Tensor:
    """Mean over images of (||z||^2 / 2 - log|det|) / d; `log_det` is per dimension."""
    return (0.5 * (z * z).mean(dim=1) - log_det).mean()


def fusion_score(z: Tensor) -> Tensor:
    """||z||^2 / d of each image, (B,)."""
    return (z * z).mean(dim=1)
