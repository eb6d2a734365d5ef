"""What every method shares that fits one flow to each level of an extractor's maps.

Features, statistics heads, latents, log-likelihoods and the fused map; a method's own file says
which flows, and from which loss they learn.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PyramidConfig
from .extractor import Extractor, extractor_of
from .head import StatisticsHead
from .latents import Latent, Observed
from .likelihood import Prior, Spread, clip, log_density
from .method import Draw, Method, Steps
from .position import take
from .score import anomaly_map, image_score
from .statistics import FeatureScale


class Pyramid(Method[Observed]):
    """Flows on the levels of an extractor; `seed` fixes what is drawn when they are made."""

    config: PyramidConfig
    extractor: Extractor

    def __init__(self, config: PyramidConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.prior = Prior.of(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config)
        self.register_buffer("level_max", torch.zeros(config.levels))

    def _build(self, config: PyramidConfig) -> None:
        self.extractor = self.make_extractor()
        finest, joined = config.taps[0], sum(self.extractor.channels)
        self.channels = self.extractor.channels + (joined,) * len(config.pools)
        self.sizes = tuple((config.height // s, config.width // s) for s in config.taps) + tuple(
            (g, g) for g in config.pools
        )
        levels = list(zip(self.channels, self.sizes, strict=True))
        self.flows = nn.ModuleList(self.flow(c, *size) for c, size in levels)
        self.scalers = nn.ModuleList(self.scaler(c, *size) for c, size in levels)
        width = config.head_width
        spread, moving = config.variance == "estimated", config.mean == "estimated"
        self.head = StatisticsHead(width, 2, finest) if spread else None
        self.mean_head = StatisticsHead(width, 1, finest) if moving else None

    def make_extractor(self) -> Extractor:
        """The network whose maps are tapped, with random weights."""
        return extractor_of(self.config)

    @abstractmethod
    def flow(self, channels: int, height: int, width: int) -> nn.Module:
        """The flow of a level: maps (B, C, H, W) to latents and log|det| / C (B, H, W)."""

    def scaler(self, channels: int, height: int, width: int) -> nn.Module:
        """What a level's features go through before its flow."""
        kind = self.config.feature_scale
        if kind == "none":
            return nn.Identity()
        if kind == "position":
            return FeatureScale(channels, height, width)
        return FeatureScale(channels)

    def features(self, x: Tensor) -> list[Tensor]:
        """Each level's map of normalised images, smoothed, pooled and scaled as configured."""
        return self.scaled(self.tapped(x))

    def tapped(self, x: Tensor) -> list[Tensor]:
        """The extractor's maps of normalised images, in their type."""
        return [m.to(x.dtype) for m in cast("list[Tensor]", self.extractor(x))]

    def scaled(self, tapped: list[Tensor]) -> list[Tensor]:
        """Each level's map of tapped maps."""
        maps = self._unscaled(tapped)
        return [scaler(m) for scaler, m in zip(self.scalers, maps, strict=True)]

    def log_likelihoods(self, images: Tensor) -> list[Tensor]:
        """Per-dimension log-likelihood l^k of every position as normal, (B, H_k, W_k) per level."""
        return [
            self._log_likelihood(latent)
            for latent in self.latents(self.observe(images), self.whole())
        ]

    def _log_likelihood(self, latent: Latent) -> Tensor:
        density = log_density(latent.square, self.spread(latent, self.config.variance_rule))
        return density + latent.log_det if self.config.scores_volume else density

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B,) and anomaly maps (B, H, W) of RGB uint8 images (B, H, W, 3)."""
        maps = anomaly_map(self.log_likelihoods(images), self.level_max, self.config)
        return image_score(maps, self.config), maps

    def observe(self, images: Tensor) -> Observed:
        """Features and statistics of uint8 images (B, H, W, 3)."""
        x = self.normalise(images)
        gamma = None if self.head is None else clip(self.head(x).to(x.dtype))
        centre = None if self.mean_head is None else self.mean_head(x).to(x.dtype)
        return Observed(self.features(x), gamma, centre)

    def summary(self, images: Tensor) -> Tensor:
        """The means of all features over their positions, (B, sum of C_k)."""
        features = self.features(self.normalise(images))
        return torch.cat([v.mean(dim=(2, 3)) for v in features], dim=1)

    def draws(
        self, batch: int, steps: Steps, generator: torch.Generator | None = None
    ) -> Iterator[Draw]:
        """`updates` steps of all levels, or sweeps over one level after the other in fibres.

        A fibre holds the same positions of all images; the last, incomplete one is left out.
        """
        everything = tuple(range(len(self.flows)))
        for _ in range(steps.updates):
            if not steps.fibre:
                indices = self._share(steps.positions, generator)
                yield Draw(indices, everything, steps.noise, generator)
                continue
            count = max(1, steps.fibre // batch)
            for k in everything:
                order = self._order(k, generator)
                for start in range(0, max(1, len(order) - count + 1), count):
                    yield Draw((order[start : start + count],), (k,), steps.noise, generator)

    def whole(self) -> Draw:
        """All positions of every level."""
        levels = range(len(self.flows))
        return Draw((None,) * len(levels), tuple(levels))

    def latents(self, observed: Observed, draw: Draw) -> list[Latent]:
        """Latents of a batch at the levels and positions that `draw` names."""
        gamma, centre = observed.gamma, observed.centre
        latents = []
        for k, index in zip(draw.levels, draw.indices, strict=True):
            v = observed.features[k]
            z, log_det = self.flows[k](draw.blur(v if index is None else take(v, index)), index)
            if centre is not None:
                z = z - self.at_level(centre, k, index)
            log_a, log_b = (
                (None, None) if gamma is None else self.at_level(gamma, k, index).unbind(1)
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

    def at_level(self, finest: Tensor, k: int, index: Tensor | None) -> Tensor:
        """Maps (B, C, ., .) of the finest tap at level k: sampled at a tap, averaged in a pool."""
        if k >= len(self.config.taps):
            return _cells(finest, self.sizes[k][0])
        step = self.config.taps[k] // self.config.taps[0]
        maps = finest if step == 1 else finest[:, :, ::step, ::step]
        return maps if index is None else take(maps, index)

    @torch.no_grad()
    def fit_feature_scale(self, batches: Iterable[Tensor]) -> None:
        """Standardise the features over batches of good uint8 images (B, H, W, 3).

        Does nothing when `feature_scale` is `none`.
        """
        if self.config.feature_scale == "none":
            return
        moments = [cast(FeatureScale, scaler).moments() for scaler in self.scalers]
        for images in batches:
            maps = self._unscaled(self.tapped(self.normalise(images.to(self.pixel_mean.device))))
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

    def _unscaled(self, maps: list[Tensor]) -> list[Tensor]:
        side = self.config.smooth
        if side > 1:
            maps = [
                F.avg_pool2d(m, side, stride=1, padding=side // 2, count_include_pad=False)
                for m in maps
            ]
        pooled = [torch.cat([_cells(m, g) for m in maps], dim=1) for g in self.config.pools]
        return maps + pooled

    def _share(self, share: float, generator: torch.Generator | None) -> tuple[Tensor | None, ...]:
        """A share of the positions of every tapped level, all of a pooled one's."""
        if share >= 1:
            return (None,) * len(self.flows)
        drawn = list[Tensor | None]()
        for k, (height, width) in enumerate(self.sizes[: len(self.config.taps)]):
            count = max(1, round(share * height * width))
            drawn.append(self._order(k, generator)[:count])
        return (*drawn, *(None,) * len(self.config.pools))

    def _order(self, k: int, generator: torch.Generator | None) -> Tensor:
        """The flat positions of level k in random order."""
        height, width = self.sizes[k]
        return torch.randperm(height * width, generator=generator).to(self.level_max.device)


def _cells(maps: Tensor, side: int) -> Tensor:
    """Means of (B, C, H, W) over side x side cells."""
    # int(): while tracing, a size is a tensor, and the exported graph needs a number.
    return F.avg_pool2d(maps, (int(maps.shape[2]) // side, int(maps.shape[3]) // side))
