"""The inference model: what is traced into the exported graph, and nothing that training needs.

Its parts are small modules whose constants the passes (passes.py) have folded. Their names become
the names of the graph's nodes, and so the regions that precision is chosen for: `pixels`,
`features.stages.K`, the rest of `features`, `head`, `levels.K.blocks.B.first`, `.last`, the rest of
`levels.K`, `likelihood`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.config import PyramidConfig
from ..model.extractor import advance


class Pixels(nn.Module):
    """Centred pixels (B, 3, H, W) of uint8 images (B, H, W, 3).

    Only the mean is left of the normalisation once the deviation lies in the first convolutions:
    zero padding pads with the mean, so it cannot become a bias (graph 10).
    """

    mean: Tensor
    deviation: Tensor | None

    def __init__(self, mean: Tensor, deviation: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        # Converted before it is transposed: TensorRT transposes no uint8.
        x = images.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean
        return x if self.deviation is None else x / self.deviation


class Affine(nn.Module):
    """y scale + offset, each of a shape that broadcasts, or absent."""

    scale: Tensor | None
    offset: Tensor | None

    def __init__(self, scale: Tensor | None, offset: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, y: Tensor) -> Tensor:
        y = y if self.scale is None else y * self.scale
        return y if self.offset is None else y + self.offset


class Stage(nn.Module):
    """What leads to one tap: its output for the next stage, and the map that is tapped."""

    def __init__(self, blocks: Mapping[str, nn.Module], projected: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)
        self.projected = projected

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return advance(self.blocks.values(), x, self.projected)


class Features(nn.Module):
    """The map each level's flow is given: of a tap, or of all taps averaged to cells."""

    def __init__(
        self,
        stages: Iterable[nn.Module],
        entries: Iterable[nn.Module],
        smooth: int,
        pools: Sequence[int],
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.entries = nn.ModuleList(entries)
        self.smooth = smooth
        self.pools = tuple(pools)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.entered(self.tapped(x))

    def tapped(self, x: Tensor) -> list[Tensor]:
        """The map of every tap."""
        maps = []
        for stage in self.stages:
            x, tap = stage(x)
            maps.append(tap)
        return maps

    def entered(self, maps: list[Tensor]) -> list[Tensor]:
        """The same of tapped maps."""
        side = self.smooth
        if side > 1:
            maps = [F.avg_pool2d(m, side, 1, side // 2, count_include_pad=False) for m in maps]
        pooled = [torch.cat([cells(m, side) for m in maps], dim=1) for side in self.pools]
        return [entry(m) for entry, m in zip(self.entries, maps + pooled, strict=True)]


class Heads(nn.Module):
    """The statistics heads the model has, each at the finest tap: of the variance, of the mean."""

    spread: nn.Module | None
    mean: nn.Module | None

    def __init__(self, spread: nn.Module | None, mean: nn.Module | None) -> None:
        super().__init__()
        self.spread = spread
        self.mean = mean

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        heads = (self.spread, self.mean)
        spread, mean = (None if head is None else cast(Tensor, head(x)) for head in heads)
        return spread, mean


class First(nn.Module):
    """First subnet layer: relu(W1 y1 + bias), the bias a sum of terms over rows and columns.

    The terms are summed before they meet the image: engines do that once, when they load the
    graph, so the file holds a row and a column and each image pays one addition (graph 2).
    """

    def __init__(self, convolution: nn.Conv2d, terms: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.convolution = convolution
        self.terms = nn.ParameterList(nn.Parameter(t, requires_grad=False) for t in terms)

    def forward(self, y1: Tensor) -> Tensor:
        h = self.convolution(y1)
        return F.relu(h + reduce(torch.add, list(self.terms)) if len(self.terms) else h)

    def add(self, bias: Tensor) -> None:
        """Take in a further bias, (1, O, 1, 1) or (1, O, H, W)."""
        own = self.convolution.bias
        if own is not None and bias.shape[2:] == (1, 1):
            own.data = own + bias.flatten()
        elif len(self.terms) and bias.shape[2:] == (1, 1):
            self.terms[0].data = self.terms[0] + bias
        else:
            self.terms.append(nn.Parameter(bias, requires_grad=False))


class Gather(nn.Module):
    """Channels in another order (graph 3)."""

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, y: Tensor) -> Tensor:
        return y.index_select(1, self.order)


class Block(nn.Module):
    """mix(norm([y1, y2 exp(s) + t])), (s, t) of the subnet of y1, s = clamp tanh (methods 1.3)."""

    def __init__(
        self,
        first: nn.Module,
        last: nn.Module,
        norm: nn.Module,
        mix: nn.Module,
        clamp: float,
        passive: int,
    ) -> None:
        super().__init__()
        self.first = first
        self.last = last
        self.norm = norm
        self.mix = mix
        self.clamp = clamp
        self.passive = passive

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The next variable and s, both with channels along axis 1."""
        y1, y2 = y[:, : self.passive], y[:, self.passive :]
        a = self.last(self.first(y1))
        active = a.shape[1] // 2
        s = self.clamp * torch.tanh(a[:, :active])
        u = torch.cat((y1, y2 * torch.exp(s) + a[:, active:]), dim=1)
        return self.mix(self.norm(u)), s


class Level(nn.Module):
    """The flow of one level: latents z (B, C, H, W), and the log-determinant or what it sums.

    `entry` is what features go through in FP32, whatever the extractor's precision is.
    """

    size: tuple[int, int]
    """Height and width of its maps."""
    log_scales: Tensor | None
    """Per block the sum of log g, until the likelihood's constant has taken them."""

    def __init__(
        self, blocks: Sequence[nn.Module], size: tuple[int, int], log_scales: Tensor | None
    ) -> None:
        super().__init__()
        self.size = size
        self.entry: nn.Module = nn.Identity()
        self.blocks = nn.ModuleList(blocks)
        self.norm: nn.Module = nn.Identity()
        self.register_buffer("log_scales", log_scales)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """z and log|det| (B, H, W); without `log_scales` the sum of all s, (B, A, H, W)."""
        v = self.entry(v)
        steps = []
        for block in self.blocks:
            v, s = block(v)
            steps.append(s)
        if self.log_scales is None:
            return self.norm(v), reduce(torch.add, steps)
        scales = self.log_scales.unbind()
        parts = [s.sum(dim=1) + g for s, g in zip(steps, scales, strict=True)]
        return self.norm(v), reduce(torch.add, parts)


@dataclass(frozen=True)
class Latents:
    """What the likelihood is given."""

    z: list[Tensor]
    log_det: list[Tensor]
    gamma: Tensor | None
    """log alpha, log beta (B, 2, h, w) at the finest tap, not yet clipped."""
    centre: Tensor | None
    """The mean of a normal position (B, 1, h, w) at the finest tap."""


class DeployModel(nn.Module):
    """Scores (B,) and anomaly maps (B, H, W) of uint8 images (B, H, W, 3)."""

    def __init__(
        self,
        config: PyramidConfig,
        pixels: nn.Module,
        features: Features,
        head: Heads,
        levels: Sequence[nn.Module],
        likelihood: nn.Module,
    ) -> None:
        super().__init__()
        self.config = config
        self.pixels = pixels
        self.features = features
        self.head = head
        self.levels = nn.ModuleList(levels)
        self.likelihood = likelihood

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", self.likelihood(self.latents(images)))

    def latents(self, images: Tensor) -> Latents:
        """Latents of every level; their channels may be scaled or permuted by a pass."""
        x = self.pixels(images)
        return self.latents_of(x, self.features(x))

    def latents_of(self, x: Tensor, maps: list[Tensor]) -> Latents:
        """The same of pixels and each level's map."""
        flows = [level(v) for level, v in zip(self.levels, maps, strict=True)]
        gamma, centre = self.head(x)
        return Latents([z for z, _ in flows], [j for _, j in flows], gamma, centre)


def convolution(
    weight: Tensor, bias: Tensor | None, padding: tuple[int, int] = (0, 0)
) -> nn.Conv2d:
    """A convolution with these values."""
    outputs, inputs, *kernel = weight.shape
    layer = nn.Conv2d(
        inputs,
        outputs,
        tuple(kernel),  # type: ignore[arg-type]
        padding=padding,
        bias=bias is not None,
        device="meta",
    )
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def cells(maps: Tensor, side: int) -> Tensor:
    """Means of (B, C, H, W) over side x side cells."""
    # int(): while tracing, a size is a tensor, and the exported graph needs a number.
    return F.avg_pool2d(maps, (int(maps.shape[2]) // side, int(maps.shape[3]) // side))
