"""SANFlow: one conditional flow per level, and a head that predicts each variance (methods 2).

Normal positions are drawn to a Gaussian at 0, synthetic anomalies to one at `mean_margin`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .config import LossConfig, SanflowConfig
from .flow import Flow, conditional_flow
from .latents import LevelTerms, Observed
from .losses import sanflow_loss
from .method import Draw
from .position import take
from .pyramid import Pyramid


class SANFlow(Pyramid):
    """Semantic-aware normalising flow; `seed` fixes permutations and first weights."""

    config: SanflowConfig

    def __init__(self, config: SanflowConfig, seed: int = 0) -> None:
        super().__init__(config, seed)

    def flow(self, channels: int, height: int, width: int) -> Flow:
        """Coupling blocks under the position code, permuted hard."""
        return conditional_flow(self.config, channels, height, width)

    def loss(
        self, observed: Observed, masks: Tensor, draw: Draw, config: LossConfig
    ) -> tuple[Tensor, dict[str, float]]:
        """NLL, BCE and KL summed over levels (Eqs. 3-9); `nll`, `bce` and `kl` beside it."""
        return sanflow_loss(self, self.training_terms(observed, masks, draw), config)

    def training_terms(self, observed: Observed, masks: Tensor, draw: Draw) -> list[LevelTerms]:
        """What the loss needs of an observed batch and its anomaly masks (B, H, W)."""
        stride, taps = self.config.taps[0], len(self.config.taps)
        finest = masks[:, None, ::stride, ::stride].bool()
        # A pooled cell is abnormal when anything in it is, whatever nearest sampling would see.
        whole = masks[:, None].to(self.pixel_mean.dtype)
        terms = []
        latents = self.latents(observed, draw)
        for k, index, latent in zip(draw.levels, draw.indices, latents, strict=True):
            if k < taps:
                terms.append(LevelTerms(latent, self.at_level(finest, k, index)[:, 0]))
            else:
                cells = F.adaptive_max_pool2d(whole, self.sizes[k]) > 0
                abnormal = cells if index is None else take(cells, index)
                terms.append(LevelTerms(latent, abnormal[:, 0], good_only=True))
        return terms
