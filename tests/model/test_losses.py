"""The loss against the C-dimensional formulae written out in float64, and who learns from what."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanflow.model.config import LossConfig, SanflowConfig
from sanflow.model.latents import Latent, LevelTerms
from sanflow.model.losses import level_parts
from sanflow.model.method import Steps
from sanflow.model.sanflow import SANFlow

CONFIG = SanflowConfig(
    extractor="resnet18",
    taps=(8, 16),
    height=64,
    width=64,
    position_dim=8,
    blocks=2,
    head_width=4,
)
PAPER, OFFICIAL = (
    LossConfig(),
    LossConfig(
        form="official", bce="official", half_log_variance=False, bce_weight=0.2, kl_weight=1.0
    ),
)
G = -0.5 * math.log(2 * math.pi)
CHANNELS = 6


def model_of(**changes: object) -> SANFlow:
    return SANFlow(replace(CONFIG, **changes))  # type: ignore[arg-type]


@pytest.fixture
def level() -> tuple[Tensor, LevelTerms]:
    """Random latents z (2, C, 3, 4) in float64, and their terms with a leaf log a and log b."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    z, abnormal = normal(2, CHANNELS, 3, 4), normal(2, 3, 4) > 0
    log_a = (3 + 0.3 * normal(2, 3, 4)).requires_grad_()
    log_b = (1 + 0.3 * normal(2, 3, 4)).requires_grad_()
    latent = Latent(CHANNELS, z.mean(dim=1), (z * z).mean(dim=1), normal(2, 3, 4), log_a, log_b)
    return z, LevelTerms(latent, abnormal)


def kl(terms: LevelTerms) -> Tensor:
    """Eq. 4 with alpha0 = 59.5 and beta0 = 6.05."""
    assert terms.latent.log_a is not None
    assert terms.latent.log_b is not None
    a, b = terms.latent.log_a.exp(), terms.latent.log_b.exp()
    a0, b0 = 59.5, 6.05
    gammas = math.lgamma(a0) - torch.lgamma(a)
    return (a - a0) * torch.digamma(a) + gammas + a0 * torch.log(b / b0) + a * (b0 / b - 1)


def gaussians(z: Tensor, terms: LevelTerms, margin: float) -> tuple[Tensor, Tensor]:
    """Eqs. 6 and 7: expected log densities of z in C dimensions, normal and abnormal."""
    assert terms.latent.log_a is not None
    assert terms.latent.log_b is not None
    a, b = terms.latent.log_a.exp(), terms.latent.log_b.exp()
    constant = CHANNELS * G - CHANNELS / 2 * (b.log() - torch.digamma(a))
    squares = [((z - mu) ** 2).sum(dim=1) for mu in (0.0, margin)]
    return constant - a / b / 2 * squares[0], constant - a / b / 2 * squares[1]


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_paper_form_is_eqs_3_to_9(level: tuple[Tensor, LevelTerms], margin: float) -> None:
    z, terms = level
    parts = level_parts(model_of(mean_margin=margin), terms, PAPER)
    normal, abnormal = gaussians(z, terms, margin)
    adaptive = torch.where(terms.abnormal, abnormal, normal) + CHANNELS * terms.latent.log_det
    close = {"rtol": 0, "atol": 1e-8}  # the series for digamma
    torch.testing.assert_close(parts.nll, -adaptive / CHANNELS, **close)
    torch.testing.assert_close(parts.kl, kl(terms) / CHANNELS, **close)
    gap = (normal - abnormal) / CHANNELS
    bce = -torch.log(torch.sigmoid(torch.where(terms.abnormal, -gap, gap)))
    torch.testing.assert_close(parts.bce, bce, **close)


def test_official_form_is_the_released_codes(level: tuple[Tensor, LevelTerms]) -> None:
    z, terms = level
    parts = level_parts(model_of(), terms, OFFICIAL)
    assert terms.latent.log_a is not None
    assert terms.latent.log_b is not None
    a, b = terms.latent.log_a.exp(), terms.latent.log_b.exp()
    missing_half = CHANNELS * (b.log() - torch.digamma(a))
    normal = CHANNELS * G - missing_half - 0.5 * a / b * (z**2).sum(dim=1)
    var = (b / (a + 1)).clamp(max=5)
    plugged = CHANNELS / 2 * var.log() + ((z - 1) ** 2).sum(dim=1) / (2 * var)
    abnormal = CHANNELS * G - plugged
    adaptive = torch.where(terms.abnormal, abnormal, normal)
    expected = -(adaptive / CHANNELS + terms.latent.log_det)
    torch.testing.assert_close(parts.nll, expected, rtol=0, atol=1e-8)
    twice = torch.softmax(torch.softmax(torch.stack((normal, abnormal), -1), -1), -1)
    entropy = -torch.where(terms.abnormal, twice[..., 1], twice[..., 0]).log()
    torch.testing.assert_close(parts.bce, entropy, rtol=0, atol=1e-8)
    torch.testing.assert_close(parts.kl, kl(terms) / CHANNELS)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_double_softmax_saturates_at_its_two_constants(form: str) -> None:
    """Far from the boundary it is 0.31326 or 1.31326 and teaches nothing (methods 2.5)."""
    mean = torch.tensor([[[-50.0, 50.0, -50.0, 50.0]]], requires_grad=True)
    zero = torch.zeros(1, 1, 4)
    latent = Latent(
        CHANNELS, mean, mean.detach() ** 2, zero, zero + math.log(60), zero + math.log(6)
    )
    terms = LevelTerms(latent, torch.tensor([[[False, False, True, True]]]))
    config = LossConfig(form=form, bce="official")  # type: ignore[arg-type]
    bce = level_parts(model_of(), terms, config).bce
    expected = torch.tensor([[[0.31326, 1.31326, 1.31326, 0.31326]]])
    torch.testing.assert_close(bce, expected, rtol=0, atol=1e-5)
    (slope,) = torch.autograd.grad(bce.sum(), mean)
    assert not slope.any()
    logits = level_parts(model_of(), terms, replace(config, bce="logits")).bce
    (slope,) = torch.autograd.grad(logits.sum(), mean)
    assert slope[0, 0, 1] > 0 > slope[0, 0, 2]


@pytest.mark.parametrize("config", [PAPER, OFFICIAL, replace(OFFICIAL, bce="logits")])
def test_the_head_learns_from_normal_positions(
    config: LossConfig, level: tuple[Tensor, LevelTerms]
) -> None:
    _, terms = level
    parts = level_parts(model_of(), terms, config)
    likelihood = parts.nll.sum() + parts.bce.sum()
    leaves = (terms.latent.log_a, terms.latent.log_b)
    for slope in torch.autograd.grad(likelihood, leaves, retain_graph=True):
        assert not slope[terms.abnormal].any()
        assert slope[~terms.abnormal].all()
    slope_a, slope_b = torch.autograd.grad(parts.kl.sum(), leaves)
    assert not slope_b[terms.abnormal].any()
    assert slope_b[~terms.abnormal].all()
    # The released code lets a alone through at abnormal positions.
    assert slope_a[terms.abnormal].any() == (config.form == "official")


@pytest.mark.parametrize("config", [PAPER, OFFICIAL])
def test_total_weighs_and_reduces_as_printed(config: LossConfig) -> None:
    model, (images, masks) = model_of().eval(), batch()
    total, values = model.loss(model.observe(images), masks, model.whole(), config)
    expected, names = 0.0, {"nll": 0.0, "bce": 0.0, "kl": 0.0}
    for terms in model.training_terms(model.observe(images), masks, model.whole()):
        p, channels = level_parts(model, terms, config), terms.latent.channels
        if config.form == "paper":
            level = p.nll.mean() + 1.0 * p.bce.mean() + 0.2 * p.kl.mean()
        else:
            q = (-channels * p.nll - 1.0 * channels * p.kl - 0.2 * p.bce) / channels
            level = -torch.log(torch.sigmoid(q)).mean()
        expected += level.item()
        for name in names:
            names[name] += getattr(p, name).mean().item()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert values == pytest.approx({"loss": expected, **names}, rel=1e-5)


ABLATIONS = {
    "1a": ({"variance": "unit"}, {"bce_weight": 0.0, "kl_weight": 0.0}),
    "1b": ({}, {"bce_weight": 0.0, "kl_weight": 0.0}),
    "1c": ({}, {"kl_weight": 0.0}),
    "1d": ({}, {"bce_weight": 0.0}),
    "3a": ({"variance": "fixed"}, {}),
    "3b": ({"variance": "fixed", "mean": "estimated"}, {}),
    "3c": ({"mean": "estimated"}, {}),
}


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_have_the_terms_of_their_row(name: str, form: str) -> None:
    shape, weights = ABLATIONS[name]
    model, config = model_of(**shape), LossConfig(form=form, **weights)  # type: ignore[arg-type]
    images, masks = batch()
    (half,) = model.draws(len(images), Steps(0.5), torch.Generator().manual_seed(0))
    total, values = model.loss(model.observe(images), masks, half, config)
    total.backward()
    for key, parameter in model.named_parameters():
        learns = not key.startswith("extractor.")
        assert (parameter.grad is not None) == learns, key
    assert math.isfinite(total.item())
    assert (values["kl"] > 0) == (model.head is not None)
    if name == "1a":  # Eq. 2: a unit Gaussian for every position, when nothing is abnormal
        model.eval()
        nothing = torch.zeros_like(masks)
        _, plain = model.loss(model.observe(images), nothing, model.whole(), config)
        expected = 0.0
        for terms in model.training_terms(model.observe(images), masks, model.whole()):
            expected -= (G - terms.latent.square / 2 + terms.latent.log_det).mean().item()
        assert plain["nll"] == pytest.approx(expected, rel=1e-5)


def test_drawn_positions_follow_their_generator() -> None:
    model, (images, masks) = model_of().eval(), batch()

    def total(seed: int) -> float:
        (draw,) = model.draws(len(images), Steps(0.3), torch.Generator().manual_seed(seed))
        return model.loss(model.observe(images), masks, draw, PAPER)[0].item()

    totals = [total(seed) for seed in (1, 1, 2)]
    assert totals[0] == totals[1] != totals[2]


@pytest.mark.parametrize("config", [PAPER, OFFICIAL])
def test_a_few_steps_lower_the_loss_and_separate_the_marked_half(config: LossConfig) -> None:
    model, (images, masks) = model_of(feature_scale="standard"), batch()
    model.fit_feature_scale([images])
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    totals = []
    for _ in range(30):
        optimiser.zero_grad()
        total, values = model.loss(model.observe(images), masks, model.whole(), config)
        total.backward()
        optimiser.step()
        totals.append(values["loss"])
    assert totals[-1] < 0.9 * totals[0]
    finest = model.eval().training_terms(model.observe(images), masks, model.whole())[0]
    mean = finest.latent.mean
    assert mean[finest.abnormal].mean() > mean[~finest.abnormal].mean() + 0.05


def batch() -> tuple[Tensor, Tensor]:
    """Four grey images whose marked lower right halves are brighter and rougher."""
    generator = torch.Generator().manual_seed(0)
    images = 100 + 10 * torch.randn(4, 64, 64, 3, generator=generator)
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    masks[2:, 32:, :] = True
    rough = 170 + 40 * torch.randn(images.shape, generator=generator)
    images = torch.where(masks[..., None], rough, images)
    return images.clamp(0, 255).to(torch.uint8), masks
