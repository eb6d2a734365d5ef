"""CFLOW-AD: a conditional flow per level, unit Gaussian, good images alone (methods 3).

    l_i = (log N(z_i; 0, 1) + J_i) / C,   loss = mean_i -log sigmoid(l_i)                 (1.4)

With a statistics head, CFLOW+SP, the Gaussian's variance is drawn from IG(alpha_i, beta_i), and

    loss = mean_i -E[l_i] + kl_weight mean_i KL_i / C                                    (2.14)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import LossConfig
from .flow import Flow, conditional_flow
from .flow_config import CflowConfig
from .latents import Observed
from .losses import good_terms, sigmoid_loss, valued
from .method import Draw
from .pyramid import Pyramid


class CFLOW(Pyramid):
    """Conditional flows under soft rotations; `seed` fixes rotations and first weights."""

    config: CflowConfig

    def __init__(self, config: CflowConfig, seed: int = 0) -> None:
        super().__init__(config, seed)

    def flow(self, channels: int, height: int, width: int) -> Flow:
        """Coupling blocks under the position code, or under none."""
        soft = self.config.permutation == "soft"
        return conditional_flow(self.config, channels, height, width, soft=soft)

    def loss(
        self, observed: Observed, masks: Tensor, draw: Draw, config: LossConfig
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss summed over levels; `nll` and, with a statistics head, `kl` beside it."""
        nlls, kls = good_terms(self, self.latents(observed, draw))
        if self.head is None:
            return sigmoid_loss(nlls)
        parts = torch.stack([nll.mean() for nll in nlls]).sum()
        kl = torch.stack([kl.mean() for kl in kls]).sum()
        return valued(parts + config.kl_weight * kl, ("nll", "kl"), torch.stack((parts, kl)))
