"""SANFlow: extractor, one conditional flow per level, and a head that predicts each variance.

`forward` is exactly what is exported: from uint8 images to their scores and anomaly maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .extractor import extractor_of
from .flow import Flow
from .head import StatisticsHead
from .likelihood import Prior, Spread, clip, log_density
from .position import take
from .score import anomaly_map, image_score
from .statistics import FeatureScale

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Latent:
    """One level's latents as the likelihood sees them: (B, H_k, W_k), or (B, n, 1) if drawn."""

    channels: int
    mean: Tensor
    """Mean over channels of z - mu, mu the mean of a normal position."""
    square: Tensor
    """Mean over channels of (z - mu)^2."""
    log_det: Tensor
    """log|det dz/dv| / C."""
    log_a: Tensor | None
    """log alpha and log beta of the statistics head; None where the variance is a constant."""
    log_b: Tensor | None


@dataclass(frozen=True)
class Observed:
    """What the parts that see the image make of a batch, before any flow."""

    features: list[Tensor]
    """Each level's scaled map (B, C_k, H_k, W_k)."""
    gamma: Tensor | None
    """log alpha and log beta (B, 2, H_1, W_1); None where the variance is a constant."""
    centre: Tensor | None
    """The mean head's map (B, 1, H_1, W_1); None where the mean is fixed."""

    def detached(self) -> Observed:
        """The same values without their history: further steps then train the flows alone."""
        gamma, centre = self.gamma, self.centre
        return Observed(
            [v.detach() for v in self.features],
            None if gamma is None else gamma.detach(),
            None if centre is None else centre.detach(),
        )


@dataclass(frozen=True)
class LevelTerms:
    """One level of a training batch: its latents and which positions are synthetic anomalies."""

    latent: Latent
    abnormal: Tensor
    good_only: bool = False
    """A pooled level learns from good cells alone: a small patch hardly moves a large mean, and
    calling that mean abnormal would only widen the density of the good ones."""


class SANFlow(nn.Module):
    """Semantic-aware normalising flow; `seed` fixes permutations and first weights."""

    level_max: Tensor
    pixel_mean: Tensor
    pixel_deviation: Tensor

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.prior = Prior.of(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config)
        self.register_buffer("level_max", torch.zeros(config.levels))
        mean, deviation = 255 * torch.tensor(IMAGENET_MEAN), 255 * torch.tensor(IMAGENET_STD)
        self.register_buffer("pixel_mean", mean[:, None, None], persistent=False)
        self.register_buffer("pixel_deviation", deviation[:, None, None], persistent=False)

    def _build(self, config: ModelConfig) -> None:
        self.extractor = extractor_of(config)
        finest, joined = config.taps[0], sum(self.extractor.channels)
        self.channels = self.extractor.channels + (joined,) * len(config.pools)
        self.sizes = tuple((config.height // s, config.width // s) for s in config.taps) + tuple(
            (g, g) for g in config.pools
        )
        self.flows = nn.ModuleList(
            Flow(
                c,
                *size,
                position_dim=config.position_dim,
                blocks=config.blocks,
                clamp=config.clamp,
            )
            for c, size in zip(self.channels, self.sizes, strict=True)
        )
        self.scalers = nn.ModuleList(
            _scaler(config.feature_scale, c, *size)
            for c, size in zip(self.channels, self.sizes, strict=True)
        )
        width = config.head_width
        spread, moving = config.variance == "estimated", config.mean == "estimated"
        self.head = StatisticsHead(width, 2, finest) if spread else None
        self.mean_head = StatisticsHead(width, 1, finest) if moving else None

    def normalise(self, images: Tensor) -> Tensor:
        """ImageNet-normalised (B, 3, H, W) of RGB uint8 images (B, H, W, 3)."""
        # Converted before it is transposed: TensorRT transposes no uint8.
        x = images.to(self.pixel_mean.dtype).permute(0, 3, 1, 2)
        return (x - self.pixel_mean) / self.pixel_deviation

    def features(self, x: Tensor) -> list[Tensor]:
        """Each level's map of normalised images, smoothed, pooled and scaled as configured."""
        return [scaler(m) for scaler, m in zip(self.scalers, self._unscaled(x), strict=True)]

    def log_likelihoods(self, images: Tensor) -> list[Tensor]:
        """Per-dimension log-likelihood l^k of every position as normal, (B, H_k, W_k) per level."""
        everywhere = [None] * len(self.flows)
        return [
            log_density(latent.square, self.spread(latent, self.config.variance_rule))
            + latent.log_det
            for latent in self.latents(self.observe(images), everywhere)
        ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B,) and anomaly maps (B, H, W) of RGB uint8 images (B, H, W, 3)."""
        maps = anomaly_map(self.log_likelihoods(images), self.level_max, self.config)
        return image_score(maps, self.config), maps

    def training_terms(
        self,
        observed: Observed,
        masks: Tensor,
        positions: float = 1.0,
        generator: torch.Generator | None = None,
        noise: float = 0.0,
    ) -> list[LevelTerms]:
        """What the loss needs of an observed batch and its anomaly masks (B, H, W).

        A share `positions` of each tapped level is drawn with `generator` (a CPU one): the same
        positions for all images of the batch. `noise` is the deviation of what is added to the
        features: a density fitted to noisy features is smooth at that scale.
        """
        indices = self._draw(positions, generator)

        def blur(v: Tensor) -> Tensor:
            if noise == 0:
                return v
            return v + noise * torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device)

        latents = self.latents(observed, indices, blur)
        finest = masks[:, None, :: self.config.taps[0], :: self.config.taps[0]].bool()
        # A pooled cell is abnormal when anything in it is, whatever nearest sampling would see.
        whole = masks[:, None].to(self.pixel_mean.dtype)
        taps = len(self.config.taps)
        sampled = [
            LevelTerms(latent, self._at_level(finest, k, index)[:, 0])
            for k, (latent, index) in enumerate(zip(latents[:taps], indices, strict=False))
        ]
        pooled = [
            LevelTerms(latent, F.adaptive_max_pool2d(whole, size)[:, 0] > 0, good_only=True)
            for latent, size in zip(latents[taps:], self.sizes[taps:], strict=True)
        ]
        return sampled + pooled

    def observe(self, images: Tensor) -> Observed:
        """Features and statistics of uint8 images (B, H, W, 3)."""
        x = self.normalise(images)
        gamma = None if self.head is None else clip(self.head(x).to(x.dtype))
        centre = None if self.mean_head is None else self.mean_head(x).to(x.dtype)
        return Observed(self.features(x), gamma, centre)

    def latents(
        self,
        observed: Observed,
        indices: Sequence[Tensor | None],
        change: Callable[[Tensor], Tensor] = lambda v: v,
    ) -> list[Latent]:
        """Latents of a batch per level, at all positions or at the flat positions given.

        `change` is applied to the features before their flow.
        """
        gamma, centre = observed.gamma, observed.centre
        latents = []
        for k, (flow, v, index) in enumerate(
            zip(self.flows, observed.features, indices, strict=True)
        ):
            z, log_det = flow(change(v if index is None else take(v, index)), index)
            if centre is not None:
                z = z - self._at_level(centre, k, index)
            log_a, log_b = (
                (None, None) if gamma is None else self._at_level(gamma, k, index).unbind(1)
            )
            latents.append(
                Latent(v.shape[1], z.mean(dim=1), (z * z).mean(dim=1), log_det, log_a, log_b)
            )
        return latents

    def spread(self, latent: Latent, rule: Literal["mode", "expectation"]) -> Spread:
        """The base variance of a level: a constant, or the head's by `rule` (methods 2.4)."""
        if latent.log_a is None or latent.log_b is None:
            constant = 1.0 if self.config.variance == "unit" else self.config.prior_variance
            return Spread.constant(constant, latent.square)
        if rule == "mode":
            return Spread.mode(latent.log_a, latent.log_b, self.config.max_variance)
        return Spread.expectation(latent.log_a, latent.log_b)

    @torch.no_grad()
    def fit_feature_scale(self, batches: Iterable[Tensor]) -> None:
        """Standardise the features over batches of good uint8 images (B, H, W, 3).

        Does nothing when `feature_scale` is `none`.
        """
        if self.config.feature_scale == "none":
            return
        moments = [cast(FeatureScale, scaler).moments() for scaler in self.scalers]
        for images in batches:
            maps = self._unscaled(self.normalise(images.to(self.pixel_mean.device)))
            for level, m in zip(moments, maps, strict=True):
                level.update(m)
        for scaler, level in zip(self.scalers, moments, strict=True):
            cast(FeatureScale, scaler).fit(level)

    @torch.no_grad()
    def fit_level_max(self, batches: Iterable[Tensor]) -> None:
        """Set m_k to the largest l^k over batches of normal uint8 images (methods 1.5).

        Raises ValueError when there is no image. The model should be in eval mode.
        """
        largest: Tensor | None = None
        for images in batches:
            levels = self.log_likelihoods(images.to(self.level_max.device))
            batch = torch.stack([level.amax() for level in levels])
            largest = batch if largest is None else torch.maximum(largest, batch)
        if largest is None:
            raise ValueError("the level maxima need at least one normal image")
        self.level_max.copy_(largest)

    def _unscaled(self, x: Tensor) -> list[Tensor]:
        side, maps = self.config.smooth, cast("list[Tensor]", self.extractor(x))
        if side > 1:
            maps = [
                F.avg_pool2d(m, side, stride=1, padding=side // 2, count_include_pad=False)
                for m in maps
            ]
        maps = [m.to(x.dtype) for m in maps]
        pooled = [torch.cat([_cells(m, g) for m in maps], dim=1) for g in self.config.pools]
        return maps + pooled

    def _draw(self, share: float, generator: torch.Generator | None) -> list[Tensor | None]:
        if share >= 1:
            return [None] * len(self.flows)
        device, indices = self.level_max.device, list[Tensor | None]()
        for height, width in self.sizes[: len(self.config.taps)]:
            total = height * width
            drawn = torch.randperm(total, generator=generator)[: max(1, round(share * total))]
            indices.append(drawn.to(device))
        return indices + [None] * len(self.config.pools)

    def _at_level(self, finest: Tensor, k: int, index: Tensor | None) -> Tensor:
        """Maps (B, C, ., .) of the finest tap at level k: sampled at a tap, averaged in a pool."""
        if k >= len(self.config.taps):
            return _cells(finest, self.sizes[k][0])
        step = self.config.taps[k] // self.config.taps[0]
        maps = finest if step == 1 else finest[:, :, ::step, ::step]
        return maps if index is None else take(maps, index)


def _scaler(kind: str, channels: int, height: int, width: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return FeatureScale(channels, height, width) if kind == "position" else FeatureScale(channels)


def _cells(maps: Tensor, side: int) -> Tensor:
    """Means of (B, C, H, W) over side x side cells."""
    # int(): while tracing, a size is a tensor, and the exported graph needs a number.
    return F.avg_pool2d(maps, (int(maps.shape[2]) // side, int(maps.shape[3]) // side))
