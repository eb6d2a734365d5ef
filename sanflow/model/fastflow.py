"""FastFlow: two-dimensional couplings on whole maps, unit Gaussian, good images alone (methods 4).

    loss = sum_k mean over images of [ 1/2 sum_chw z^2 - J ],   P^k = exp(-1/2 mean_c z^2)

J is summed over the map and belongs to the loss alone. With a statistics head, FastFlow+SP, the
variance of position i is drawn from IG(alpha_i, beta_i), and

    loss = sum_k mean_i -C E[l_i] + kl_weight KL_i                                        (2.14)
    P^k  = exp(-1/2 log var - mean_c z^2 / (2 var) - m_k)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .config import LossConfig
from .extractor import Extractor
from .flow import Flow
from .flow_config import TRANSFORMER_BLOCKS, FastflowConfig
from .latents import Observed
from .likelihood import LOG_GAUSS
from .losses import good_terms, valued
from .method import Draw
from .pyramid import Pyramid
from .token_maps import build_token_map


class FastFlow(Pyramid):
    """Flows with convolution subnets; `seed` fixes permutations and first weights."""

    config: FastflowConfig

    def __init__(self, config: FastflowConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        if not self.fits_level_max:
            self.level_max.fill_(LOG_GAUSS)  # of a unit Gaussian at z = 0: P is 1 there

    def make_extractor(self) -> Extractor:
        """A convolutional one, or a transformer's patch tokens."""
        config = self.config
        if config.extractor in TRANSFORMER_BLOCKS:
            return build_token_map(config.extractor, config.height, config.width)
        return super().make_extractor()

    def flow(self, channels: int, height: int, width: int) -> Flow:
        """Coupling blocks whose subnets see 3 x 3 positions, or that and one in turn."""
        config = self.config
        return Flow(
            channels,
            height,
            width,
            position_dim=0,
            blocks=config.blocks,
            clamp=config.clamp,
            kernels=(3,) if config.conv3x3_only else (3, 1),
            ratio=config.hidden_ratio,
        )

    def scaler(self, channels: int, height: int, width: int) -> nn.Module:
        """A LayerNorm over the whole map, or what every pyramid has."""
        if self.config.layer_norm:
            return nn.LayerNorm([channels, height, width])
        return super().scaler(channels, height, width)

    @property
    def fits_level_max(self) -> bool:
        """Only an estimated variance leaves the density without a known maximum."""
        return self.head is not None

    def fit_level_max(self, batches: Iterable[Tensor]) -> None:
        """Of the likelihood over good images, where it has no known maximum."""
        if self.fits_level_max:
            super().fit_level_max(batches)

    def loss(
        self, observed: Observed, masks: Tensor, draw: Draw, config: LossConfig
    ) -> tuple[Tensor, dict[str, float]]:
        """Nats per image and, with a statistics head, per position; `nll` is per dimension."""
        latents = self.latents(observed, draw)
        nlls, kls = good_terms(self, latents)
        parts = torch.stack([nll.mean() for nll in nlls]).sum()
        if self.head is None:
            sizes = [latent.channels * latent.square[0].numel() for latent in latents]
            levels = [n * (nll.mean() + LOG_GAUSS) for n, nll in zip(sizes, nlls, strict=True)]
            return valued(torch.stack(levels).sum(), ("nll",), parts)
        kl = torch.stack([kl.mean() for kl in kls])
        channels = kl.new_tensor([latent.channels for latent in latents])
        whole = torch.stack([nll.mean() for nll in nlls]) + config.kl_weight * kl
        return valued((channels * whole).sum(), ("nll", "kl"), torch.stack((parts, kl.sum())))
