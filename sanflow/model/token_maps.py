"""Transformers of timm as extractors of one map: their patch tokens, back in their places.

FastFlow takes the first blocks of a network alone, and its final norm after them (methods 4).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from .extractor import Extractor
from .flow_config import TRANSFORMER_BLOCKS

_EMBEDDED = ("patch_embed.", "cls_token", "dist_token", "pos_embed")


class TokenMap(Extractor):
    """The map (B, d, H / 16, W / 16) of a transformer's patch tokens, as a list of one."""

    def __init__(self, name: str, model: Any, blocks: int, grid: tuple[int, int]) -> None:
        # CaiT's class token joins the patches only behind the blocks that are kept.
        prefixes = int(model.pos_embed.shape[1]) - grid[0] * grid[1]
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            embed=_Embedding(model, prefixes),
            blocks=nn.Sequential(*list(model.blocks)[:blocks]),
            norm=model.norm,
            map=_Map(prefixes, grid),
        )
        super().__init__(name, nn.Sequential(parts), {"map": int(model.embed_dim)})
        self.prefixes = prefixes
        self.grid = grid
        for module in self.body.modules():
            if hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", False)  # noqa: B010  # no exporter sees into that call

    def weights_url(self) -> str:
        """Where the network's authors keep its weights."""
        from timm.models import get_pretrained_cfg

        return str(cast(Any, get_pretrained_cfg(self.name)).url)

    def adapt(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Timm's names, or the authors' own, as ours; positions resized to this image's grid."""
        adapted = {}
        for key, value in values.items():
            own = key.removeprefix("module.")
            adapted[f"embed.{own}" if own.startswith(_EMBEDDED) else own] = value
        positions = adapted.get("embed.pos_embed")
        cells = 0 if positions is None else positions.shape[1] - self.prefixes
        side = math.isqrt(cells)
        # By the grid: 4 x 9 cells are as many as 6 x 6.
        if positions is not None and side * side == cells and (side, side) != self.grid:
            from timm.layers.pos_embed import resample_abs_pos_embed

            adapted["embed.pos_embed"] = resample_abs_pos_embed(
                positions, list(self.grid), num_prefix_tokens=self.prefixes
            )
        return adapted


class _Embedding(nn.Module):
    """Patches (B, n, d) of images, behind the tokens that stand for all of it, with positions."""

    def __init__(self, model: Any, prefixes: int) -> None:
        super().__init__()
        self.patch_embed = model.patch_embed
        self.names = ("cls_token", "dist_token")[:prefixes]
        for name in self.names:
            self.register_parameter(name, getattr(model, name))
        self.pos_embed = model.pos_embed

    def forward(self, x: Tensor) -> Tensor:
        first = [getattr(self, name).expand(int(x.shape[0]), -1, -1) for name in self.names]
        tokens: Tensor = torch.cat((*first, self.patch_embed(x)), dim=1) + self.pos_embed
        return tokens


class _Map(nn.Module):
    """Tokens (B, prefixes + h w, d) as a map (B, d, h, w), without those before the patches."""

    def __init__(self, prefixes: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.prefixes = prefixes
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        channels = int(tokens.shape[2])
        return tokens[:, self.prefixes :].transpose(1, 2).reshape(-1, channels, *self.grid)


def build_token_map(name: str, height: int, width: int) -> TokenMap:
    """The transformer `name` with random weights; InputError where timm is not installed."""
    try:
        import timm
    except ModuleNotFoundError:
        raise InputError(
            f"extractor {name!r} is one of timm's, which is not installed: pip install timm"
        ) from None
    model = timm.create_model(name, pretrained=False, img_size=(height, width), num_classes=0)
    grid = (height // 16, width // 16)
    return TokenMap(name, model, TRANSFORMER_BLOCKS[name], grid)
