"""Eqs. 3-9 in stable form. Every quantity is per position and per dimension: divided by C.

z is seen only through its mean and mean square over channels, so nothing overflows and the
factor C of the C-dimensional Gaussian (reading B of methods 2.4) cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import PyramidConfig

LOG_GAUSS = -0.5 * math.log(2 * math.pi)
LOG_LOW, LOG_HIGH = math.log(1e-8), math.log(1e4)


@dataclass(frozen=True)
class Prior:
    """The inverse gamma IG(alpha, beta) that h is drawn to; its mode is xi (methods 2.3)."""

    alpha: float
    beta: float

    @classmethod
    def of(cls, config: PyramidConfig) -> Prior:
        """alpha0 = p^2 / 2 - 1 and beta0 = p^2 xi / 2."""
        half = config.prior_window**2 / 2
        return cls(half - 1, half * config.prior_variance)


@dataclass(frozen=True)
class Spread:
    """What a density needs to know of the variance: log s and 1/s, or their expectations."""

    log_variance: Tensor
    precision: Tensor

    @classmethod
    def constant(cls, variance: float, like: Tensor) -> Spread:
        """The same variance at every position."""
        value = like.new_tensor(variance)
        return cls(value.log(), 1 / value)

    @classmethod
    def mode(cls, log_a: Tensor, log_b: Tensor, maximum: float) -> Spread:
        """The mode b / (a + 1), at most `maximum`; needs no special function (methods 9.2)."""
        log_variance = (log_b - F.softplus(log_a)).clamp(max=math.log(maximum))
        return cls(log_variance, torch.exp(-log_variance))

    @classmethod
    def expectation(cls, log_a: Tensor, log_b: Tensor) -> Spread:
        """E[log s] = log b - psi(a) and E[1/s] = a / b (Eq. 6)."""
        return cls(log_b - log_a + digamma_gap(log_a), torch.exp(log_a - log_b))


def clip(log_parameter: Tensor) -> Tensor:
    """log alpha or log beta of h within [1e-8, 1e4], so that every later exp stays finite."""
    return log_parameter.clamp(LOG_LOW, LOG_HIGH)


def digamma_gap(log_a: Tensor) -> Tensor:
    """log a - psi(a) by the shifted asymptotic series, absolute error below 2.5e-9.

    It has no digamma (no engine has one), no logarithm (ONNX Runtime's depends on the slot in the
    batch) and, unlike log a - digamma(a), no cancellation.
    """
    shift = 6
    a = log_a.exp()
    y = a + shift
    inverse = 1 / (y * y)
    tail = 0.5 / y + inverse * (1 / 12 - inverse * (1 / 120 - inverse / 252))
    # log a - psi(a) = log y - psi(y) - log(y / a) + sum_j 1 / (a + j)
    gap = tail - F.softplus(math.log(shift) - log_a)
    for j in range(shift):
        gap = gap + 1 / (a + j)
    return gap


def log_density(square: Tensor, spread: Spread) -> Tensor:
    """Gaussian log density per dimension; `square` is the mean over channels of (z - mu)^2."""
    return LOG_GAUSS - 0.5 * spread.log_variance - 0.5 * spread.precision * square


def normal_logit(mean: Tensor, precision: Tensor, margin: float) -> Tensor:
    """(log p_normal - log p_abnormal) / C when both share a variance (methods 2.5).

    `mean` is the mean over channels of z minus the normal mean; the abnormal mean lies `margin`
    above it in every channel.
    """
    return precision * margin * (margin / 2 - mean)


def kl_divergence(log_a: Tensor, log_b: Tensor, prior: Prior) -> Tensor:
    """KL(IG(a, b) || IG(alpha0, beta0)) at every position (Eq. 4), not divided by C."""
    return _kl(log_a, log_b, (log_a - log_b).exp(), prior)


def kl_divergence_detached(log_a: Tensor, log_b: Tensor, prior: Prior) -> Tensor:
    """Eq. 4 where only the terms in a alone carry a gradient, as the released code has it."""
    return _kl(log_a, log_b.detach(), (log_a - log_b).exp().detach(), prior)


def _kl(log_a: Tensor, log_b: Tensor, ratio: Tensor, prior: Prior) -> Tensor:
    a, a0, b0 = log_a.exp(), prior.alpha, prior.beta
    gammas = math.lgamma(a0) - torch.lgamma(a)
    return (a - a0) * torch.digamma(a) + gammas + a0 * (log_b - math.log(b0)) + b0 * ratio - a
