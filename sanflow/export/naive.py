"""The model as its authors' code is traced: where the passes start from, and what they are worth.

FrEIA runs a position-wise flow on one row per position, joins the condition to the input of every
subnet, and permutes by a dense matrix; the statistics head is evaluated at every pixel and sampled
by nearest resize; log-determinants and squares are summed over channels.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.config import PyramidConfig
from ..model.coupling import Coupling
from ..model.flow import Flow
from ..model.head import StatisticsHead
from ..model.likelihood import Spread, clip, log_density
from ..model.pyramid import Pyramid
from ..model.score import anomaly_map, image_score
from .deploy import (
    Affine,
    Block,
    DeployModel,
    Features,
    Heads,
    Latents,
    Level,
    Pixels,
    Stage,
    cells,
    convolution,
)


class JoinedFirst(nn.Module):
    """relu(W1 [y1, p] + b1) on rows (B H W, C): `layer` is a Linear, or on maps a convolution.

    An unconditional flow has no p.
    """

    code: Tensor | None

    def __init__(self, layer: nn.Linear | nn.Conv2d, code: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("code", code)

    def forward(self, y1: Tensor) -> Tensor:
        if self.code is None:
            return F.relu(self.layer(y1))
        times = (int(y1.shape[0]) // int(self.code.shape[0]), *(1,) * (y1.ndim - 1))
        return F.relu(self.layer(torch.cat((y1, self.code.repeat(times)), dim=1)))


class Factor(nn.Module):
    """A last subnet layer whose output is scaled, as FrEIA scales it by 0.1."""

    def __init__(self, layer: nn.Module, factor: float) -> None:
        super().__init__()
        self.layer = layer
        self.factor = factor

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.factor * self.layer(h))


class Rows(nn.Module):
    """A level on one row per position."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level = level

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = (int(n) for n in v.shape)
        z, log_det = self.level(v.permute(0, 2, 3, 1).reshape(-1, channels))
        z = z.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return z, log_det.view(batch, height, width)


class DenseHead(nn.Module):
    """The statistics head at every pixel, its map resized to the finest tap."""

    def __init__(self, head: StatisticsHead) -> None:
        super().__init__()
        self.first, self.middle, self.last = head.first, head.middle, head.last
        self.stride = cast("tuple[int, int]", head.last.stride)[0]
        self.last.stride = (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        maps = self.last(self.middle(first) + first)
        size = int(maps.shape[2]) // self.stride, int(maps.shape[3]) // self.stride
        return F.interpolate(maps, size, mode="nearest")


class SumLikelihood(nn.Module):
    """Log-likelihoods of summed squares and log-determinants, each level by itself."""

    level_max: Tensor

    def __init__(self, config: PyramidConfig, level_max: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("level_max", level_max)

    def forward(self, latents: Latents) -> tuple[Tensor, Tensor]:
        maps = anomaly_map(self.levels(latents), self.level_max, self.config)
        return image_score(maps, self.config), maps

    def levels(self, latents: Latents) -> list[Tensor]:
        """Per-dimension log-likelihood l^k of every position, (B, H_k, W_k) per level."""
        return [self._level(k, latents) for k in range(len(latents.z))]

    def above(self, latents: Latents) -> list[Tensor]:
        """m_k - l^k of every position, (B, 1, H_k, W_k) per level."""
        levels = self.levels(latents)
        return [(m - level)[:, None] for m, level in zip(self.level_max, levels, strict=True)]

    def _level(self, k: int, latents: Latents) -> Tensor:
        z, channels = latents.z[k], latents.z[k].shape[1]
        if latents.centre is not None:
            z = z - self._sample(latents.centre, z, k)
        square = (z * z).sum(dim=1) / channels
        gamma = None if latents.gamma is None else self._sample(clip(latents.gamma), z, k)
        spread = spread_of(self.config, gamma, square)
        density = log_density(square, spread)
        return density + latents.log_det[k] / channels if self.config.scores_volume else density

    def _sample(self, finest: Tensor, z: Tensor, k: int) -> Tensor:
        if k >= len(self.config.taps):
            return cells(finest, int(z.shape[2]))
        return F.interpolate(finest, (int(z.shape[2]), int(z.shape[3])), mode="nearest")


def spread_of(config: PyramidConfig, gamma: Tensor | None, like: Tensor) -> Spread:
    """The base variance: the configured constant, or the head's by the configured rule."""
    if gamma is None:
        return Spread.constant(1.0 if config.variance == "unit" else config.prior_variance, like)
    if config.variance_rule == "mode":
        return Spread.mode(gamma[:, 0], gamma[:, 1], config.max_variance)
    return Spread.expectation(gamma[:, 0], gamma[:, 1])


@torch.no_grad()
def naive(model: Pyramid) -> DeployModel:
    """A copy of the trained model in float64, in the form in which FrEIA runs it."""
    own = copy.deepcopy(model).double().eval().requires_grad_(False)
    flows = zip(own.flows, own.scalers, own.sizes, strict=True)
    levels = [_level(cast(Flow, flow), scaler, size) for flow, scaler, size in flows]
    entries = [nn.Identity() if isinstance(s, nn.LayerNorm) else s for s in own.scalers]
    body = own.extractor
    stages = [Stage(blocks, body.projected) for blocks in body.stages()]
    features = Features(stages, entries, model.config.smooth, model.config.pools)
    return DeployModel(
        model.config,
        Pixels(own.pixel_mean, own.pixel_deviation),
        features,
        Heads(*(None if head is None else DenseHead(head) for head in (own.head, own.mean_head))),
        levels,
        SumLikelihood(model.config, own.level_max),
    ).eval()


def _level(flow: Flow, scaler: nn.Module, size: tuple[int, int]) -> Rows | Level:
    couplings = [cast(Coupling, block) for block in flow.blocks]
    rows = all(coupling.first.kernel_size == (1, 1) for coupling in couplings)
    scales = [coupling._scale().flatten() for coupling in couplings]
    log_scales = torch.stack([scale.log().sum() for scale in scales])
    made = _row_block if rows else _map_block
    blocks = [made(flow, c, scale) for c, scale in zip(couplings, scales, strict=True)]
    level = Level(blocks, size, log_scales)
    if isinstance(scaler, nn.LayerNorm):
        level.entry = scaler
    return Rows(level) if rows else level


def _row_block(flow: Flow, coupling: Coupling, scale: Tensor) -> Block:
    first = linear(coupling.first.weight.flatten(1), coupling.first.bias)
    last = linear(coupling.last.weight.flatten(1), coupling.last.bias)
    return Block(
        JoinedFirst(first, None if flow.code is None else flow.code().flatten(2)[0].T),
        Factor(last, 0.1),
        Affine(scale, coupling.global_offset.flatten()),
        linear(coupling.matrix(), None),
        coupling.clamp,
        coupling.passive,
    )


def _map_block(flow: Flow, coupling: Coupling, scale: Tensor) -> Block:
    return Block(
        JoinedFirst(coupling.first, None if flow.code is None else flow.code()),
        Factor(coupling.last, 0.1),
        Affine(scale.view(-1, 1, 1), coupling.global_offset[0]),
        convolution(coupling.matrix()[:, :, None, None], None),
        coupling.clamp,
        coupling.passive,
    )


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear with these values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, "meta", weight.dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
