"""The training loss: likelihood of normal and abnormal positions, their separation, the prior.

`paper`:    L = mean(NLL) + bce_weight mean(BCE) + kl_weight mean(KL / C)      (Eqs. 3-9)
`official`: L = mean(-logsigmoid((log p + J - kl_weight KL - bce_weight BCE) / C)), the released
code's. Both are summed over levels; the statistics head learns from normal positions (methods 2.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import LossConfig
from .latents import Latent, LevelTerms
from .likelihood import (
    Prior,
    Spread,
    kl_divergence,
    kl_divergence_detached,
    log_density,
    normal_logit,
)

if TYPE_CHECKING:
    from .pyramid import Pyramid
    from .sanflow import SANFlow


@dataclass(frozen=True)
class Parts:
    """One level's terms per position, unweighted; NLL and KL are divided by C."""

    nll: Tensor
    bce: Tensor
    kl: Tensor


def sanflow_loss(
    model: SANFlow, levels: Iterable[LevelTerms], config: LossConfig
) -> tuple[Tensor, dict[str, float]]:
    """Loss of the levels of a batch, to be minimised.

    The values beside it are `loss` and, summed over levels, the means of `nll`, `bce` and `kl`.
    """
    totals: list[Tensor] = []
    means: list[Tensor] = []
    for terms in levels:
        parts = level_parts(model, terms, config)
        if terms.good_only:
            good = ~terms.abnormal
            nothing = torch.zeros_like(parts.bce[good])
            parts = Parts(parts.nll[good], nothing, parts.kl[good])
        totals.append(_total(parts, terms.latent.channels, config))
        means.append(torch.stack((parts.nll.mean(), parts.bce.mean(), parts.kl.mean())))
    names = ("nll", "bce", "kl")
    return valued(torch.stack(totals).sum(), names, torch.stack(means).sum(dim=0))


def good_terms(model: Pyramid, latents: Iterable[Latent]) -> tuple[list[Tensor], list[Tensor]]:
    """NLL and KL / C at every position of each level, all of them good (methods 2.14).

    The KL is 0 where the variance is a constant.
    """
    nlls, kls = [], []
    for latent in latents:
        density = log_density(latent.square, model.spread(latent, "expectation"))
        nlls.append(-density - latent.log_det)
        if latent.log_a is None or latent.log_b is None:
            kls.append(torch.zeros_like(latent.square))
        else:
            kls.append(kl_divergence(latent.log_a, latent.log_b, model.prior) / latent.channels)
    return nlls, kls


def sigmoid_loss(nlls: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """mean_i -log sigmoid(l_i), summed over levels (methods 1.4), with the NLL beside it."""
    total = torch.stack([-F.logsigmoid(-nll).mean() for nll in nlls]).sum()
    return valued(total, ("nll",), torch.stack([nll.mean() for nll in nlls]).sum())


def valued(total: Tensor, names: Sequence[str], parts: Tensor) -> tuple[Tensor, dict[str, float]]:
    """A loss with the values of itself and of its parts, as a method returns them."""
    values = torch.cat((total.reshape(1), parts.reshape(-1))).tolist()  # one transfer
    return total, dict(zip(("loss", *names), values, strict=True))


def level_parts(model: SANFlow, terms: LevelTerms, config: LossConfig) -> Parts:
    """NLL (Eqs. 3, 5), BCE (Eq. 8) and KL (Eq. 4) at every position of one level."""
    latent, abnormal = _stopped(terms), terms.abnormal
    margin, channels = model.config.mean_margin, terms.latent.channels
    normal_spread = abnormal_spread = model.spread(latent, "expectation")
    if config.form == "official":
        plugged = model.spread(latent, "mode")
        abnormal_spread = Spread(plugged.log_variance.detach(), plugged.precision.detach())
    if not config.half_log_variance:
        normal_spread = replace(normal_spread, log_variance=2 * normal_spread.log_variance)
    # mean_c (z - mu_a)^2, where mu_a lies `margin` above mu_n in every channel.
    farther = latent.square + margin * (margin - 2 * latent.mean)
    log_normal = log_density(latent.square, normal_spread)
    log_abnormal = log_density(farther, abnormal_spread)
    if config.form == "official":
        logit = channels * (log_normal - log_abnormal)
    else:
        logit = normal_logit(latent.mean, normal_spread.precision, margin)
        logit = channels * logit if config.bce == "official" else logit
    if config.bce == "official":
        # Cross-entropy of softmax(softmax([log p_n, log p_a])): the logit is squashed to (-1, 1).
        logit = torch.tanh(logit / 2)
    log_p = torch.where(abnormal, log_abnormal, log_normal)
    bce = F.softplus(torch.where(abnormal, logit, -logit))
    kl = _kl(terms, latent, model.prior, config) / channels
    return Parts(-log_p - latent.log_det, bce, kl)


def _total(parts: Parts, channels: int, config: LossConfig) -> Tensor:
    penalty = config.kl_weight * parts.kl
    if config.form == "paper":
        return (parts.nll + config.bce_weight * parts.bce + penalty).mean()
    quality = -parts.nll - penalty - config.bce_weight * parts.bce / channels
    return -F.logsigmoid(quality).mean()


def _stopped(terms: LevelTerms) -> Latent:
    """The latent whose variance carries no gradient at abnormal positions."""
    latent = terms.latent
    if latent.log_a is None or latent.log_b is None:
        return latent
    return replace(
        latent,
        log_a=torch.where(terms.abnormal, latent.log_a.detach(), latent.log_a),
        log_b=torch.where(terms.abnormal, latent.log_b.detach(), latent.log_b),
    )


def _kl(terms: LevelTerms, stopped: Latent, prior: Prior, config: LossConfig) -> Tensor:
    latent = terms.latent if config.form == "official" else stopped
    if latent.log_a is None or latent.log_b is None:
        return torch.zeros_like(latent.square)
    kl = kl_divergence(latent.log_a, latent.log_b, prior)
    if config.form == "official":
        partly = kl_divergence_detached(latent.log_a, latent.log_b, prior)
        kl = torch.where(terms.abnormal, partly, kl)
    return kl
