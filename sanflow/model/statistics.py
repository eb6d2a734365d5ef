"""Standardised features: shifted and scaled by their moments over good images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROUNDING = 1e-5
"""Deviations below this share of the largest are those of a constant in float32."""


class FeatureScale(nn.Module):
    """(x - mean) / deviation of (B, C, H, W), per channel or per channel and position.

    The moments have the shape (1, C, 1, 1) or (1, C, H, W); it is the identity until fitted.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, height: int = 1, width: int = 1) -> None:
        super().__init__()
        shape = (1, channels, height, width)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised maps, the same shape."""
        return (x - self.mean) / self.deviation

    def moments(self) -> Moments:
        """Empty moments of this scale's shape."""
        return Moments(*self.mean.shape[1:])

    def fit(self, moments: Moments) -> None:
        """Take mean and deviation from `moments`.

        A channel that is hardly ever active would be blown up to hundreds of deviations where it
        is, so no deviation counts as less than a tenth of the median one. Where most never change
        but for rounding, as on a saturated background, the median is of those that do.
        """
        deviation = moments.deviation()
        changing = deviation > ROUNDING * deviation.max()
        few = changing.float().mean() <= 0.5
        typical = (deviation[changing] if few else deviation).median()
        deviation = deviation.clamp_min(0.1 * typical if changing.any() else 1.0)
        self.mean.copy_(moments.mean.view_as(self.mean))
        self.deviation.copy_(deviation.view_as(self.deviation))


class Moments:
    """Running mean and deviation in float64 (Chan, Golub and LeVeque's update).

    Per channel, over all positions; with a height and width, for every position by itself.
    """

    def __init__(self, channels: int, height: int = 1, width: int = 1) -> None:
        size = channels * height * width
        self.local = height * width > 1
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64)
        self.squares = torch.zeros(size, dtype=torch.float64)

    def update(self, maps: Tensor) -> None:
        """Take in maps (B, C, H, W)."""
        maps = maps.detach().to("cpu", torch.float64)
        values = maps.flatten(1).T if self.local else maps.transpose(0, 1).flatten(1)
        count = values.shape[1]
        mean = values.mean(dim=1)
        delta = mean - self.mean
        total = self.count + count
        self.squares += ((values - mean[:, None]) ** 2).sum(dim=1)
        self.squares += delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def deviation(self) -> Tensor:
        """Standard deviation (population form)."""
        return (self.squares / max(self.count, 1)).sqrt()
