"""CLS-CNF: its score and loss in NumPy, and that flows and classifier read the same features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanflow.model.cls_cnf import CLSCNF
from sanflow.model.cls_config import ClsCnfConfig
from sanflow.model.config import LossConfig

TINY: dict[str, Any] = {
    "extractor": "resnet18",
    "taps": (8, 16),
    "height": 64,
    "width": 96,
    "position_dim": 16,
    "blocks": 2,
}


def made(**changes: Any) -> CLSCNF:
    model = CLSCNF(ClsCnfConfig(**{**TINY, **changes})).eval()
    model.map_weight.fill_(0.3)
    model.fit_level_max([images(3)])
    return model


def images(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, 64, 96, 3), generator=generator, dtype=torch.uint8)


def test_the_weighted_sum_of_both_maps_in_numpy() -> None:
    model = made()
    with torch.no_grad():
        levels = [level.numpy() for level in model.log_likelihoods(images())]
        logits = model.classify(images()).numpy()
        score, heat = (t.numpy() for t in model(images()))
    below = [level - m for level, m in zip(levels, model.level_max.numpy(), strict=True)]
    flows = sum(
        F.interpolate(
            torch.from_numpy(1 - np.exp(part))[:, None],
            (64, 96),
            mode="bilinear",
            align_corners=True,
        )[:, 0].numpy()
        for part in below
    )
    expected = flows + 0.3 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(heat, expected, atol=2e-5)
    np.testing.assert_allclose(score, heat.max(axis=(1, 2)), rtol=0)


def test_the_flows_learn_by_cflows_loss() -> None:
    model = made().train()
    total, values = model.loss(
        model.observe(images()), torch.zeros(2, 64, 96), model.whole(), LossConfig()
    )
    levels = model.log_likelihoods(images())
    expected = sum(np.log1p(np.exp(-level.detach().numpy())).mean() for level in levels)
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    torch.autograd.backward(total)
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {"flows"}


def test_the_classifier_is_frozen_and_judges_as_the_map_does() -> None:
    model = made()
    assert not any(p.requires_grad for p in model.decoder.parameters())
    with torch.no_grad():
        _, classified = model.maps(images())
        assert torch.equal(classified, torch.sigmoid(model.classify(images())))
    assert classified.shape == (2, 64, 96)


def test_the_published_shape() -> None:
    config = ClsCnfConfig()
    assert (config.blocks, config.position_dim, config.permutation) == (6, 128, "soft")
    assert config.decoder == "bottleneck"
    assert config.ceiling == 4
    assert ClsCnfConfig(extractor="resnet18").decoder == "basic"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"fusion": "log_likelihood"}, "fusion"), ({"position_dim": 0}, "position_dim 0")],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)
