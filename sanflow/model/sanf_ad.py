"""SANF-AD: the class token's flow, fed by class attention over pooled patch tokens (methods 5)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import ClassAttention
from .token_config import SanfAdConfig
from .tokens import TokenMethod


class SANFAD(TokenMethod):
    """Semantic-aware flow of a whole image; one group holds all pooled tokens."""

    config: SanfAdConfig

    def attention(self, width: int) -> nn.Module:
        """Of half a class token over itself and the patch tokens."""
        return ClassAttention(width, self.config.heads)

    def groups(self, patches: Tensor) -> Tensor:
        """Means over `pool` x `pool` patches, (B, 1, n, d)."""
        if self.config.layout == "compat":
            patches = as_published(patches)
        pooled = F.avg_pool2d(patches, self.config.pool)
        return pooled.flatten(2).transpose(1, 2)[:, None]


def as_published(patches: Tensor) -> Tensor:
    """A map (B, d, h, w) as the published code makes it of (B, h w, d): read on, not transposed.

    Its channels hold pieces of tokens, its positions pieces of channels.
    """
    batch, channels, height, width = (int(n) for n in patches.shape)
    return patches.flatten(2).transpose(1, 2).reshape(batch, channels, height, width)
