"""Vision transformers as token extractors: torchvision's, frozen, read after the last norm.

Only the parameters are torchvision's. The forward pass is written out, because its attention module
hides a fused call that no exporter can see into; torchvision's own is the oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from .extractor import Backbone

POSITIONS = "encoder.pos_embedding"


class TokenTransformer(Backbone):
    """Class token (B, d) and patch tokens (B, d, h, w) of images (B, 3, h patch, w patch)."""

    def __init__(self, name: str, body: VisionTransformer, height: int, width: int) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.taps = ("encoder.ln",)
        self.channels = (body.hidden_dim,)
        self.size = (height // body.patch_size, width // body.patch_size)
        body.heads = nn.Sequential()
        cells = self.size[0] * self.size[1]
        body.encoder.pos_embedding = nn.Parameter(torch.empty(1, 1 + cells, body.hidden_dim))
        nn.init.normal_(body.encoder.pos_embedding, std=0.02)
        self.freeze()

    def freeze(self) -> None:
        """No gradients, whatever `train()` says."""
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> TokenTransformer:
        """Stay in eval mode."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after the final LayerNorm."""
        body = self.body
        patches = body.conv_proj(x).flatten(2).transpose(1, 2)
        first = body.class_token.expand(int(x.shape[0]), -1, -1)
        tokens = torch.cat((first, patches), dim=1) + body.encoder.pos_embedding
        for block in body.encoder.layers:
            tokens = _block(cast(EncoderBlock, block), tokens)
        tokens = body.encoder.ln(tokens)
        return tokens[:, 0], tokens[:, 1:].transpose(1, 2).reshape(-1, body.hidden_dim, *self.size)

    def adapt(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A weights file's tensors with the position embedding resized to this image's grid.

        Bicubic with aligned corners, as torchvision resizes it; the file's grid is square.
        """
        adapted = dict(values)
        found = adapted.get(POSITIONS)
        cells = 0 if found is None else found.shape[1] - 1
        side = math.isqrt(cells)
        # By the grid: 7 x 28 cells are as many as 14 x 14.
        if found is not None and side * side == cells and (side, side) != self.size:
            grid = found[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
            resized = F.interpolate(grid, self.size, mode="bicubic", align_corners=True)
            joined = (found[:, :1], resized.flatten(2).transpose(1, 2))
            adapted[POSITIONS] = torch.cat(joined, dim=1)
        return adapted


def build_transformer(name: str, height: int, width: int) -> TokenTransformer:
    """The transformer `name` with random weights, for images of this size."""
    return TokenTransformer(name, zoo.get_model(name, weights=None), height, width)


def _block(block: EncoderBlock, x: Tensor) -> Tensor:
    x = x + _attention(block.self_attention, block.ln_1(x))
    return x + cast(Tensor, block.mlp(block.ln_2(x)))


def _attention(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Every token (B, n, d) looks at every token, in each head by itself."""
    joined = F.linear(x, module.in_proj_weight, module.in_proj_bias)
    heads = joined.reshape(-1, int(x.shape[1]), 3, module.num_heads, module.head_dim)
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()  # each (B, heads, n, d / heads)
    logits = query * module.head_dim**-0.5 @ key.transpose(2, 3)
    mixed = logits.softmax(dim=3) @ value
    return cast(Tensor, module.out_proj(mixed.transpose(1, 2).flatten(2)))
