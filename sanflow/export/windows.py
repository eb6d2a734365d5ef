"""The statistics head where it is sampled only: one window of the image for each position.

A sampled value sees 11 x 11 pixels (five 3x3 layers), and samples lie 8 or more pixels apart:
windows overlap less than the dense inner layers repeat work: 3.28 instead of 7.36 GMAC at
stride 8 (methods 9.10). The windows of one row of samples lie side by side with their columns
interleaved, so that each 3x3 layer stays an ordinary convolution, dilated along the width by the
number of samples in a row: 11 -> 9 -> 7 -> 5 -> 3 -> 1. Long inner rows keep engines fast.

The dense layers pad zeros at every layer, so positions outside the image must be zero after each:
a map of large negative numbers, added before the Relu, does that exactly.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deploy import Head

OUTSIDE = -1e9


class WindowHead(nn.Module):
    """A head at every `stride`-th pixel of (height, width) images: exact for strides of 6 and more.

    `stride` must leave the last window inside the image: stride > layers, the number of 3x3 layers.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, head: Head, stride: int, height: int, width: int) -> None:
        super().__init__()
        self.first, self.middle, self.last = head.first, head.middle, head.last
        self.reach = len(head.middle) + 2
        self.grid = (height // stride, width // stride)
        self.side = side = 2 * self.reach + 1
        offsets = torch.arange(side)
        starts = [stride * torch.arange(count) for count in self.grid]
        # Of the padded image: rows by sample, columns by offset within the window.
        self.register_buffer("rows", (starts[0][:, None] + offsets).flatten())
        self.register_buffer("columns", (offsets[:, None] + starts[1]).flatten())
        dtype = head.first.weight.dtype
        for inner in range(side - 2, 1, -2):
            outside = [start + torch.arange(inner)[:, None] - inner // 2 < 0 for start in starts]
            mask = outside[0].T[:, :, None, None] | outside[1][None, None]
            mask = mask.view(self.grid[0], 1, inner, -1).to(dtype) * OUTSIDE
            self.register_buffer(f"outside{inner}", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, outputs, H / stride, W / stride) of centred images (B, 3, H, W)."""
        batch, channels, (high, wide), side = int(x.shape[0]), int(x.shape[1]), self.grid, self.side
        # To the right and below no window leaves the image.
        padded = F.pad(x, (self.reach, 0, self.reach, 0))
        windows = padded.index_select(2, self.rows).index_select(3, self.columns)
        windows = windows.view(batch, channels, high, side, side * wide).transpose(1, 2)
        windows = windows.reshape(batch * high, channels, side, side * wide)
        # The skip is read in the middle only: computed anew there, so that the first layer's map
        # has one reader and its Relu can be part of the convolution.
        skip = self.side // 2 - 2
        centre = windows[:, :, skip : skip + 5, skip * wide : (skip + 5) * wide]
        h = self._inside(self._layer(self.first, windows), side - 2)
        for depth, layer in enumerate(self.middle):
            h = self._inside(self._layer(cast(nn.Conv2d, layer), h), side - 4 - 2 * depth)
        h = self._layer(self.last, h + self._inside(self._layer(self.first, centre), 3))
        return h.view(batch, high, -1, wide).transpose(1, 2)

    def _layer(self, layer: nn.Conv2d, h: Tensor) -> Tensor:
        return F.conv2d(h, layer.weight, layer.bias, dilation=(1, self.grid[1]))

    def _inside(self, h: Tensor, inner: int) -> Tensor:
        mask = cast(Tensor, getattr(self, f"outside{inner}"))
        return F.relu(h + mask.repeat(int(h.shape[0]) // self.grid[0], 1, 1, 1))
