"""What flows are given, and what the likelihood and the loss see of what they return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Observed:
    """What the parts that see the image make of a batch, before any flow."""

    features: list[Tensor]
    """Each level's scaled map (B, C_k, H_k, W_k)."""
    gamma: Tensor | None
    """log alpha and log beta (B, 2, H_1, W_1); None where the variance is a constant."""
    centre: Tensor | None
    """The mean head's map (B, 1, H_1, W_1); None where the mean is fixed."""

    def detached(self) -> Observed:
        """The same values without their history: further steps then train the flows alone."""
        gamma, centre = self.gamma, self.centre
        return Observed(
            [v.detach() for v in self.features],
            None if gamma is None else gamma.detach(),
            None if centre is None else centre.detach(),
        )


@dataclass(frozen=True)
class Latent:
    """One level's latents as the likelihood sees them: (B, H_k, W_k), or (B, n, 1) if drawn."""

    channels: int
    mean: Tensor
    """Mean over channels of z - mu, mu the mean of a normal position."""
    square: Tensor
    """Mean over channels of (z - mu)^2."""
    log_det: Tensor
    """log|det dz/dv| / C."""
    log_a: Tensor | None
    """log alpha and log beta of the statistics head; None where the variance is a constant."""
    log_b: Tensor | None


@dataclass(frozen=True)
class LevelTerms:
    """One level of a training batch: its latents and which positions are synthetic anomalies."""

    latent: Latent
    abnormal: Tensor
    good_only: bool = False
    """A pooled level learns from good cells alone: a small patch hardly moves a large mean, and
    calling that mean abnormal would only widen the density of the good ones."""
