"""CLS-CNF: conditional flows and a pixelwise classifier on one fine-tuned extractor (methods 7).

    S = (K - sum_k Up exp(l^k - m_k)) + w sigmoid(classifier)

The flows are CFLOW's, on features that have learned to tell synthetic defects. The classifier, and
the extractor with it, learn before them (training/hybrid.py), w is chosen after them; m_k are the
largest likelihoods of training images, as everywhere here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from .cls_config import ClsCnfConfig
from .config import LossConfig
from .decoder import PixelClassifier
from .flow import Flow, conditional_flow
from .latents import Observed
from .losses import good_terms, sigmoid_loss
from .method import Draw
from .pyramid import Pyramid
from .score import anomaly_map, image_score


class CLSCNF(Pyramid):
    """Flows and classifier; `seed` fixes rotations and first weights."""

    SHARED = ("extractor.", "decoder.")
    """What the first stage trains."""
    config: ClsCnfConfig
    map_weight: Tensor
    """w, in [0, 1]."""
    taught: Tensor
    """1 once the classifier has learned."""

    def __init__(self, config: ClsCnfConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.register_buffer("map_weight", torch.ones(()))
        self.register_buffer("taught", torch.zeros((), dtype=torch.uint8))

    def _build(self, config: ClsCnfConfig) -> None:  # type: ignore[override]
        super()._build(config)
        self.decoder = PixelClassifier(
            self.extractor.channels,
            config.taps,
            config.height,
            config.width,
            config.decoder,
            config.padding,
        )
        self.freeze_classifier()

    def flow(self, channels: int, height: int, width: int) -> Flow:
        """CFLOW's coupling blocks, two fewer."""
        soft = self.config.permutation == "soft"
        return conditional_flow(self.config, channels, height, width, soft=soft)

    def loss(
        self, observed: Observed, masks: Tensor, draw: Draw, config: LossConfig
    ) -> tuple[Tensor, dict[str, float]]:
        """The flows' loss, mean_i -log sigmoid(l_i) summed over levels; `nll` beside it."""
        nlls, _ = good_terms(self, self.latents(observed, draw))
        return sigmoid_loss(nlls)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B,) and anomaly maps (B, H, W) of RGB uint8 images (B, H, W, 3)."""
        flows, classified = self.maps(images)
        joined = flows + self.map_weight * classified
        return image_score(joined, self.config), joined

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The flows' map in [0, K] and the classifier's in [0, 1], (B, H, W) each."""
        tapped = self.tapped(self.normalise(images))
        observed = Observed(self.scaled(tapped), None, None)
        levels = [self._log_likelihood(z) for z in self.latents(observed, self.whole())]
        flows = anomaly_map(levels, self.level_max, self.config)
        return flows, torch.sigmoid(self._logits(tapped))

    def classify(self, images: Tensor) -> Tensor:
        """Logits (B, H, W) of a defect at every pixel of uint8 images (B, H, W, 3)."""
        return self._logits(self.tapped(self.normalise(images)))

    def freeze_classifier(self) -> None:
        """Extractor and decoder stay as they are."""
        self.extractor.freeze()
        self.decoder.requires_grad_(False).eval()

    def _logits(self, tapped: list[Tensor]) -> Tensor:
        return cast(Tensor, self.decoder(tapped))[:, 0]
