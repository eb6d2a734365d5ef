"""CLS-CNF's inference model: the compiled flows, and the classifier on the same tapped maps.

Its map is theirs plus w sigmoid(classifier); the extractor is computed once for both.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from ..model.cls_cnf import CLSCNF
from ..model.score import image_score
from .deploy import DeployModel, Features
from .naive import naive


class SharedFeatures(Features):
    """Each level's map, and the tapped maps they were made of."""

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:  # type: ignore[override]
        tapped = self.tapped(x)
        return self.entered(tapped), tapped


class Blend(DeployModel):
    """The flows' inference model with a classifier beside them.

    The classifier's convolutions may be lowered as a head's, its probability is FP32.
    """

    weight: Tensor

    def __init__(self, flows: DeployModel, classifier: nn.Module, weight: Tensor) -> None:
        own = flows.features
        shared = SharedFeatures(own.stages, own.entries, own.smooth, own.pools)
        levels = list(flows.levels)
        super().__init__(flows.config, flows.pixels, shared, flows.head, levels, flows.likelihood)
        self.classifier = classifier
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pixels(images)
        levels, tapped = self.features(x)
        _, flows = self.likelihood(self.latents_of(x, levels))
        defects = torch.sigmoid(self.classifier(tapped)[:, 0])
        joined = cast(Tensor, flows) + self.weight * defects
        return image_score(joined, self.config), joined


@torch.no_grad()
def naive_blend(model: CLSCNF) -> Blend:
    """A copy of the trained model in float64, its flows in the form in which FrEIA runs them."""
    own = copy.deepcopy(model.decoder).double().eval().requires_grad_(False)
    return Blend(naive(model), own, model.map_weight.double().clone()).eval()
