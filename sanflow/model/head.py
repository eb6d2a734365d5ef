"""The statistics head h: from the image itself to log alpha and log beta of every position.

Its maps are read by nearest sampling, that is at pixels (s r, s c). The last convolution is
computed only there: strided by the finest tap, it gives the same numbers (methods 9.3).
"""

from __future__ import annotations

from torch import Tensor, nn


class StatisticsHead(nn.Module):
    """conv-ReLU, three conv-BN-ReLU, skip, conv: 3x3, zero padding, no bias (methods 2.2)."""

    def __init__(self, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.ReLU())
        self.middle = nn.Sequential(*(layer for _ in range(3) for layer in _stage(width)))
        self.last = nn.Conv2d(width, outputs, 3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, outputs, H / stride, W / stride) of normalised images (B, 3, H, W)."""
        first = self.first(x)
        maps: Tensor = self.last(self.middle(first) + first)
        return maps


def _stage(width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
