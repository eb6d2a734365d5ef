"""CFLOW-AD: losses and scores in two lines of NumPy, and the sizes of its published models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, stats
from torch import Tensor

from sanflow.model.cflow import CFLOW
from sanflow.model.config import LossConfig
from sanflow.model.flow_config import CflowConfig
from sanflow.model.method import Draw, Steps

SMALL: dict[str, Any] = {
    "extractor": "resnet18",
    "taps": (8, 16),
    "height": 64,
    "width": 96,
    "position_dim": 8,
    "blocks": 2,
    "head_width": 4,
}


def model_of(**changes: Any) -> CFLOW:
    """A model whose flows are away from their initial values."""
    model = CFLOW(CflowConfig(**{**SMALL, **changes})).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.flows.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def photographs(count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 64, 96, 3), generator=generator, dtype=torch.uint8)


def densities(model: CFLOW, images: Tensor) -> list[NDArray[np.float64]]:
    """SciPy's log density of z and the flow's log-determinant, over C."""
    found = []
    with torch.no_grad():
        features = model.features(model.normalise(images))
        for flow, v in zip(model.flows, features, strict=True):
            z, log_det = flow(v)
            log_p = stats.norm.logpdf(z.double().numpy()).sum(axis=1)
            found.append(log_p / v.shape[1] + log_det.double().numpy())
    return found


@pytest.mark.parametrize("changes", [{}, {"position_dim": 0}, {"permutation": "hard"}], ids=str)
def test_scores_are_those_of_two_lines_of_numpy(changes: dict[str, Any]) -> None:
    model, images = model_of(**changes), photographs(3)
    model.fit_level_max([images[:2]])
    truth = densities(model, images)
    for mine, theirs in zip(model.log_likelihoods(images), truth, strict=True):
        np.testing.assert_allclose(mine.detach(), theirs, atol=2e-5)
    for m, level in zip(model.level_max, truth, strict=True):
        assert m.item() == pytest.approx(level[:2].max(), abs=2e-5)
    score, heat = model(images)
    maps = [torch.from_numpy(np.exp(t - t[:2].max())) for t in truth]
    ups = [
        torch.nn.functional.interpolate(p[:, None], (64, 96), mode="bilinear", align_corners=True)[
            :, 0
        ]
        for p in maps
    ]
    expected = 2 - sum(ups)
    np.testing.assert_allclose(heat.detach(), expected, atol=1e-4)
    np.testing.assert_allclose(score.detach(), expected.amax((1, 2)), atol=1e-4)


def test_the_loss_is_minus_log_sigmoid_of_the_density() -> None:
    model, images = model_of(), photographs()
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    total, values = model.loss(model.observe(images), masks, model.whole(), LossConfig())
    truth = densities(model, images)
    expected = sum(np.log1p(np.exp(-level)).mean() for level in truth)
    assert total.item() == values["loss"] == pytest.approx(expected, rel=1e-5)
    assert values["nll"] == pytest.approx(-sum(level.mean() for level in truth), rel=1e-5)


def test_a_fibre_is_the_loss_of_its_positions() -> None:
    model, images = model_of(), photographs()
    truth = densities(model, images)
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    draws = list(model.draws(2, Steps(fibre=32), torch.Generator().manual_seed(0)))
    assert len(draws) == 96 // 16 + 24 // 16
    for draw in (draws[0], draws[-1]):
        (index,), (k,) = draw.indices, draw.levels
        assert index is not None
        total, _ = model.loss(model.observe(images), masks, draw, LossConfig())
        chosen = truth[k].reshape(2, -1)[:, index.numpy()]
        assert total.item() == pytest.approx(np.log1p(np.exp(-chosen)).mean(), rel=1e-5)


def test_a_step_of_one_level_leaves_the_others_alone() -> None:
    """Their gradient is None, so that Adam does not move them by momentum (methods 1.4)."""
    model, images = model_of(), photographs()
    draw = Draw((torch.arange(4),), (1,))
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    model.loss(model.observe(images), masks, draw, LossConfig())[0].backward()
    assert all(p.grad is None for p in model.flows[0].parameters())
    assert all(p.grad is not None for p in model.flows[1].parameters())


def test_with_a_head_the_density_is_the_expected_one() -> None:
    """E over IG(a, b) of the Gaussian's log density, by quadrature, and KL by quadrature."""
    model, images = model_of(method="cflow-sp"), photographs()
    observed = model.observe(images)
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    total, values = model.loss(observed, masks, model.whole(), LossConfig(kl_weight=0.5))
    assert total.item() == pytest.approx(values["nll"] + 0.5 * values["kl"], rel=1e-6)
    latents = model.latents(observed, model.whole())
    point = (1, 3, 2)
    nll, kl, count = 0.0, 0.0, 0
    for latent in latents:
        assert latent.log_a is not None
        assert latent.log_b is not None
        a, b = latent.log_a[point].exp().item(), latent.log_b[point].exp().item()
        square, log_det = latent.square[point].item(), latent.log_det[point].item()
        base, prior = stats.invgamma(a, scale=b), stats.invgamma(59.5, scale=6.05)

        def inside(u: float, base: Any = base, square: float = square) -> float:
            s = base.ppf(u)
            return -0.5 * math.log(2 * math.pi * s) - square / (2 * s)

        def gap(u: float, base: Any = base, prior: Any = prior) -> float:
            s = base.ppf(u)
            return float(base.logpdf(s) - prior.logpdf(s))

        log_p = integrate.quad(inside, 1e-9, 1 - 1e-9, limit=500)[0]
        divergence = integrate.quad(gap, 1e-9, 1 - 1e-9, limit=500)[0]
        mine = _at(model, latent, point)
        assert mine[0] == pytest.approx(-log_p - log_det, abs=2e-4)
        assert mine[1] * latent.channels == pytest.approx(divergence, rel=1e-3, abs=1e-4)
        nll, kl, count = nll + mine[0], kl + mine[1], count + 1
    assert count == 2


def _at(model: CFLOW, latent: Any, point: tuple[int, int, int]) -> tuple[float, float]:
    from sanflow.model.losses import good_terms

    (nll,), (kl,) = good_terms(model, [latent])
    return nll[point].item(), kl[point].item()


def test_the_head_learns_from_all_positions() -> None:
    model, images = model_of(method="cflow-sp").train(), photographs()
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    model.loss(model.observe(images), masks, model.whole(), LossConfig())[0].backward()
    learning = {k.split(".")[0] for k, p in model.named_parameters() if p.grad is not None}
    assert learning == {"flows", "head"}


@pytest.mark.parametrize(
    "changes",
    [{"extractor": "wide_resnet50_2", "permutation": "hard"}, {"position_dim": 0}],
    ids=str,
)
def test_the_number_of_parameters(changes: dict[str, Any]) -> None:
    """Subnets from C/2 + D over C + 2 D to C, and a global scale and offset per channel."""
    config = CflowConfig(**{"extractor": "resnet18", **changes})
    with torch.device("meta"):
        model = CFLOW(config)
    expected = 0
    for c in model.channels:
        inputs = c // 2 + config.position_dim
        block = (inputs + 1) * 2 * inputs + (2 * inputs + 1) * c + 2 * c
        expected += 8 * block
    assert sum(p.numel() for p in model.flows.parameters()) == expected


@pytest.mark.parametrize(
    "changes",
    [{"position_dim": 6}, {"position_dim": -4}, {"permutation": "none"}, {"method": "sanflow"}],
    ids=str,
)
def test_what_it_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    from sanflow import schema
    from sanflow.errors import ConfigError

    with pytest.raises(ConfigError, match=r"position_dim|permutation|method"):
        schema.load(CflowConfig, {**SMALL, "taps": [8, 16], **changes})
