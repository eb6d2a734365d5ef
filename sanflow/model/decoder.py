"""The pixelwise classifier of CLS-CNF: a decoder on the flows' own extractor.

From the coarsest tap upwards: two 1x1 convolutions, then for each halving of the stride an
enlargement by two, the tap of that stride beside it, and residual blocks (methods 7). Enlargement
is bicubic on bottleneck extractors and bilinear on the others, corners aligned, written as products
with constant matrices: not every engine has a cubic resize, and none needs one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

Kind = Literal["bottleneck", "basic"]
_WIDTHS: Mapping[Kind, tuple[int, ...]] = {
    "bottleneck": (256, 128, 64, 32),
    "basic": (256, 128, 64, 32),
}
_DEPTHS: Mapping[Kind, tuple[int, ...]] = {"bottleneck": (3, 6, 4, 3), "basic": (2, 2, 1, 1)}
_LAST: Mapping[Kind, int] = {"bottleneck": 8, "basic": 16}


class Narrow(Bottleneck):  # type: ignore[misc]  # torchvision has no types
    """Torchvision's bottleneck with as many channels inside as outside."""

    expansion = 2


class PixelClassifier(nn.Module):
    """Logits (B, 1, H, W) of a defect at every pixel, of tapped maps (B, C_k, H/s_k, W/s_k).

    `taps` are the strides of the maps, fine to coarse.
    """

    def __init__(
        self,
        channels: Sequence[int],
        taps: Sequence[int],
        height: int,
        width: int,
        kind: Kind = "bottleneck",
        padding: str = "reflect",
    ) -> None:
        super().__init__()
        coarsest, deepest = taps[-1], channels[-1]
        skips = dict(zip(taps, channels, strict=True))
        strides = [coarsest >> n for n in range(1, coarsest.bit_length())]  # down to 1
        half = deepest // 2
        inner = half if kind == "bottleneck" else deepest
        self.enter = nn.Sequential(
            nn.Conv2d(deepest, half, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(half, inner, 1, bias=False),
            nn.ReLU(),
        )
        self.joins = tuple(taps.index(s) if s in skips else None for s in strides[:-1])
        stages, levels = [], len(strides) - 1
        shapes = zip(_WIDTHS[kind][-levels:], _DEPTHS[kind][-levels:], strict=True)
        for stride, (outer, depth) in zip(strides[:-1], shapes, strict=True):
            stages.append(_stage(inner + skips.get(stride, 0), outer, depth, kind))
            inner = outer
        self.stages = nn.ModuleList(stages)
        self.enlarge = nn.ModuleList(
            Double(height // (2 * s), width // (2 * s), cubic=kind == "bottleneck") for s in strides
        )
        last = _LAST[kind]
        self.leave = nn.Sequential(
            nn.Conv2d(inner, last, 3, padding=1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(),
            nn.Conv2d(last, 1, 3, padding=1, bias=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if padding == "reflect" and module.kernel_size != (1, 1):
                    module.padding_mode = "reflect"

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.enter(maps[-1])
        for enlarge, join, stage in zip(self.enlarge, self.joins, self.stages, strict=False):
            x = enlarge(x)
            x = stage(x if join is None else torch.cat((maps[join], x), dim=1))
        return cast(Tensor, self.leave(self.enlarge[-1](x)))


class Double(nn.Module):
    """Maps (B, C, H, W) at twice their height and width, corners aligned."""

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int, *, cubic: bool) -> None:
        super().__init__()
        mode = "bicubic" if cubic else "bilinear"
        self.register_buffer("rows", _matrix(height, mode), persistent=False)
        self.register_buffer("columns", _matrix(width, mode).T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows @ (x @ self.columns)


def _matrix(length: int, mode: str) -> Tensor:
    """The (2 n, n) matrix that resizes n values: what resizing makes of each unit vector."""
    unit = torch.eye(length, dtype=torch.float64)[None, None]
    size = (2 * length, length)
    made = F.interpolate(unit, size, mode=mode, align_corners=True)[0, 0]
    return made.to(torch.get_default_dtype())


def _stage(inputs: int, outer: int, depth: int, kind: Kind) -> nn.Sequential:
    """Residual blocks from `inputs` to `outer` channels; the first one's bypass is a 1x1."""
    bypass = nn.Sequential(nn.Conv2d(inputs, outer, 1, bias=False), nn.BatchNorm2d(outer))
    if kind == "basic":
        return nn.Sequential(
            BasicBlock(inputs, outer, downsample=bypass),
            *(BasicBlock(outer, outer) for _ in range(depth - 1)),
        )
    planes, base = outer // Narrow.expansion, 64 * Narrow.expansion
    return nn.Sequential(
        Narrow(inputs, planes, downsample=bypass, base_width=base),
        *(Narrow(outer, planes, base_width=base) for _ in range(depth - 1)),
    )
