"""What both image-level methods share: tokens of a frozen extractor, and a flow of the class token.

A method's own file says how patch tokens are grouped and what the class token sees in them. The
score is ||z||^2 / d (the log-determinant only trains), the map has that value everywhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .config import LossConfig
from .extractor import Extractor, build_extractor
from .fusion_flow import FusionFlow, fusion_loss, fusion_score
from .method import Draw, Method
from .statistics import FeatureScale
from .token_config import TRANSFORMERS, TokenConfig
from .vit import TokenTransformer, build_transformer


@dataclass(frozen=True)
class Tokens:
    """What the extractor sees in a batch."""

    first: Tensor
    """Class tokens (B, d)."""
    patches: Tensor
    """Patch tokens in groups (B, G, n, d)."""

    def detached(self) -> Tokens:
        """The same values without their history."""
        return Tokens(self.first.detach(), self.patches.detach())


class TokenMethod(Method[Tokens]):
    """A flow of the class token; `seed` fixes its permutations and first weights."""

    config: TokenConfig
    extractor: TokenTransformer | Extractor
    rows: Tensor
    columns: Tensor

    def __init__(self, config: TokenConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.extractor = _extractor(config)
            (channels,) = self.extractor.channels
            if channels // 2 % config.heads:
                raise ConfigError(
                    f"model.heads: {config.heads} heads do not share the {channels // 2} channels "
                    f"of half a token of {config.extractor} evenly; give a divisor of that number"
                )
            hidden = config.hidden or channels
            self.flow = FusionFlow(channels, hidden, config.couplings, config.clamp, self.attention)
        scaled = config.feature_scale == "standard"
        self.first_scale = FeatureScale(channels) if scaled else nn.Identity()
        self.patch_scale = FeatureScale(channels) if scaled else nn.Identity()
        self.register_buffer("level_max", torch.zeros(0))
        self.register_buffer("rows", torch.ones(1, config.height, 1), persistent=False)
        self.register_buffer("columns", torch.ones(1, 1, config.width), persistent=False)

    @abstractmethod
    def attention(self, width: int) -> nn.Module:
        """What half a class token (B, w) sees in half the tokens (B, G, n, w): (B, 2 w)."""

    @abstractmethod
    def groups(self, patches: Tensor) -> Tensor:
        """Patch tokens as a map (B, d, h, w), in groups (B, G, n, d)."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B,) of uint8 images (B, H, W, 3), and maps (B, H, W) of nothing but them."""
        tokens = self.observe(images)
        score = fusion_score(self.flow(tokens.first, tokens.patches)[0])
        return score, score[:, None, None] * self.rows * self.columns

    def observe(self, images: Tensor) -> Tokens:
        """Scaled tokens of uint8 images (B, H, W, 3)."""
        first, patches = self._unscaled(self.normalise(images))
        scaled = self.first_scale(first[:, :, None, None])[:, :, 0, 0]
        return Tokens(scaled, self.groups(self.patch_scale(patches)))

    def summary(self, images: Tensor) -> Tensor:
        """The class tokens (B, d) of uint8 images (B, H, W, 3)."""
        return self.observe(images).first

    def loss(
        self, observed: Tokens, masks: Tensor, draw: Draw, config: LossConfig
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over images of (||z||^2 / 2 - log|det|) / d, of good images alone."""
        z, log_det = self.flow(draw.blur(observed.first), observed.patches)
        total = fusion_loss(z, log_det)
        found = torch.stack((total, 0.5 * fusion_score(z).mean(), -log_det.mean())).tolist()
        return total, dict(zip(("loss", "square", "volume"), found, strict=True))

    @torch.no_grad()
    def fit_feature_scale(self, batches: Iterable[Tensor]) -> None:
        """Standardise both kinds of tokens over batches of good uint8 images (B, H, W, 3)."""
        if self.config.feature_scale == "none":
            return
        scales = [cast(FeatureScale, s) for s in (self.first_scale, self.patch_scale)]
        moments = [scale.moments() for scale in scales]
        for images in batches:
            first, patches = self._unscaled(self.normalise(images.to(self.pixel_mean.device)))
            moments[0].update(first[:, :, None, None])
            moments[1].update(patches)
        for scale, found in zip(scales, moments, strict=True):
            scale.fit(found)

    def _unscaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens (B, d) and patch tokens (B, d, h, w), whatever the extractor is."""
        if isinstance(self.extractor, TokenTransformer):
            first, patches = self.extractor(x)
        else:
            (patches,) = cast("list[Tensor]", self.extractor(x))
            first = F.avg_pool2d(patches, [int(n) for n in patches.shape[2:]])[:, :, 0, 0]
        return first.to(x.dtype), patches.to(x.dtype)


def _extractor(config: TokenConfig) -> TokenTransformer | Extractor:
    if config.extractor in TRANSFORMERS:
        return build_transformer(config.extractor, config.height, config.width)
    return build_extractor(config.extractor, (config.stride,), config.padding, config.stride_on)
