"""Standardised features: every channel shifted and scaled by its moments over good images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelScale(nn.Module):
    """(x - mean) / deviation per channel of (B, C, H, W); the identity until it is fitted."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised maps, the same shape."""
        return (x - self.mean) / self.deviation

    def fit(self, moments: Moments) -> None:
        """Take mean and deviation from `moments`.

        A channel that is hardly ever active would be blown up to hundreds of deviations where it
        is, so no deviation counts as less than a tenth of the median one.
        """
        deviation = moments.deviation()
        least = 0.1 * deviation.median()
        deviation = deviation.clamp_min(least if least > 0 else 1.0)
        self.mean.copy_(moments.mean.view_as(self.mean))
        self.deviation.copy_(deviation.view_as(self.deviation))


class Moments:
    """Running mean and deviation per channel in float64 (Chan, Golub and LeVeque's update)."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def update(self, maps: Tensor) -> None:
        """Take in every position of maps (B, C, H, W)."""
        values = maps.detach().to("cpu", torch.float64).transpose(0, 1).flatten(1)
        count = values.shape[1]
        mean = values.mean(dim=1)
        delta = mean - self.mean
        total = self.count + count
        self.squares += ((values - mean[:, None]) ** 2).sum(dim=1)
        self.squares += delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def deviation(self) -> Tensor:
        """Standard deviation per channel (population form)."""
        return (self.squares / max(self.count, 1)).sqrt()
