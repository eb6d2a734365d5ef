"""The statistics head, computed only around the positions where it is sampled (graph 8).

Its maps are read at pixels (r S, c S), S the stride of the finest tap, and a value read there sees
11 x 11 pixels: five 3x3 layers. From S = 8 on, windows overlap less than whole inner maps repeat
work: 3.3 instead of 7.4 GMAC at S = 8. The windows of one row of positions lie side by side with
their columns interleaved, so that each layer stays an ordinary convolution, dilated along the width
by the number of windows: 11 -> 9 -> 7 -> 5 -> 3 -> 1. Long inner rows keep engines fast.

Every layer pads zeros, but only at the image's border: the first row and column of positions are
computed from pieces of the image that end there, by padding convolutions; the rest needs no zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_STRIDE = 8
"""At 4, windows overlap so much that the whole map costs less."""


class Head(nn.Module):
    """Maps (B, outputs, H / S, W / S) of centred images (B, 3, H, W), without BatchNorm.

    `layers` are 3x3 convolutions, the first's map is added to the last but one's.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, layers: Sequence[nn.Conv2d], stride: int, height: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.stride = stride
        self.reach = len(layers)
        self.grid = (height // stride, width // stride)
        self.dense = stride < LEAST_STRIDE or min(self.grid) < 2
        if not self.dense:
            around = torch.arange(-self.reach, self.reach + 1)
            starts = [stride * torch.arange(1, count) for count in self.grid]
            # Rows by position, columns by their place within the window.
            self.register_buffer("rows", (starts[0][:, None] + around).flatten())
            self.register_buffer("columns", (around[:, None] + starts[1]).flatten())

    def forward(self, x: Tensor) -> Tensor:
        if self.dense:
            return self._padded(x, (1, 1))
        batch, channels, _, width = (int(n) for n in x.shape)
        (high, wide), side = self.grid, 2 * self.reach + 1
        top = self._padded(x[:, :, : self.reach + 1], (1, 1))
        strips = x.index_select(2, self.rows).view(batch, channels, high - 1, side, width)
        strips = strips.transpose(1, 2).reshape(-1, channels, side, width)
        left = self._padded(strips[:, :, :, : self.reach + 1], (0, 1))
        rest = torch.cat((left, self._interleaved(strips.index_select(3, self.columns))), dim=3)
        return torch.cat((top, rest.view(batch, high - 1, -1, wide).transpose(1, 2)), dim=2)

    def _padded(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """All layers on a piece of the image that ends at the image's border where it is padded."""
        first, *middle, last = cast("list[nn.Conv2d]", list(self.layers))
        skip = h = F.relu(F.conv2d(x, first.weight, first.bias, padding=padding))
        for layer in middle:
            h = F.relu(F.conv2d(h, layer.weight, layer.bias, padding=padding))
        if not padding[0]:
            skip = skip[:, :, len(middle) : -len(middle)]
        return F.conv2d(h + skip, last.weight, last.bias, self.stride, padding)

    def _interleaved(self, windows: Tensor) -> Tensor:
        """All layers on interleaved windows (N, 3, 11, 11 n): (N, outputs, 1, n)."""
        first, *middle, last = cast("list[nn.Conv2d]", list(self.layers))
        count = self.grid[1] - 1
        near, far = len(middle), len(middle) + 5
        # The skip is computed anew where it is read, so that the first map has one reader and its
        # Relu can be part of the convolution.
        centre = windows[:, :, near:far, near * count : far * count]
        skip, h = (F.relu(_dilated(part, first, count)) for part in (centre, windows))
        for layer in middle:
            h = F.relu(_dilated(h, layer, count))
        return _dilated(h + skip, last, count)


def _dilated(x: Tensor, layer: nn.Conv2d, count: int) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, dilation=(1, count))
