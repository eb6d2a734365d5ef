"""The whole model: what it gives, that images do not see each other, and every ablation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanflow.model.config import SanflowConfig
from sanflow.model.method import Steps
from sanflow.model.sanflow import SANFlow

CONFIG = SanflowConfig(
    extractor="resnet18", height=64, width=96, position_dim=8, blocks=2, head_width=4
)
VARIANTS = {
    "sanflow": {},
    "1a": {"variance": "unit"},
    "3a": {"variance": "fixed"},
    "3b": {"variance": "fixed", "mean": "estimated"},
    "3c": {"mean": "estimated"},
    "margin": {"mean_margin": 1.5},
    "expectation": {"variance_rule": "expectation"},
    "log fusion": {"fusion": "log_likelihood"},
    "top": {"image_score": "top"},
    "standard, smooth": {"feature_scale": "standard", "smooth": 3},
    "two levels": {"taps": (16, 32)},
    "four levels": {"taps": (4, 8, 16, 32)},
    "zeros": {"padding": "zeros"},
}


def photographs(count: int, seed: int = 0, height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def model_of(config: SanflowConfig = CONFIG, seed: int = 0) -> SANFlow:
    """A model whose flows and heads are away from their first values, in eval mode."""
    model = SANFlow(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> SANFlow:
    return model_of()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_scores_and_learns(variant: str) -> None:
    config = replace(CONFIG, **VARIANTS[variant])
    model, images = model_of(config), photographs(2)
    model.fit_feature_scale([images])
    model.fit_level_max([images])
    with torch.no_grad():
        score, maps = model(images)
    assert score.shape == (2,)
    assert maps.shape == (2, 64, 96)
    assert maps.isfinite().all()
    if config.fusion == "likelihood":
        assert maps.min() >= -1e-5  # the maxima are those of these very images
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[1, :32] = True
    terms = model.train().training_terms(model.observe(images), masks, model.whole())
    for level, stride in zip(terms, config.taps, strict=True):
        expected = masks[:, ::stride, ::stride]
        assert torch.equal(level.abnormal, expected)
        assert level.latent.square.shape == expected.shape
        assert (level.latent.log_a is None) == (config.variance != "estimated")
    sum(t.latent.square.mean() - t.latent.log_det.mean() for t in terms).backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"flows"} | ({"mean_head"} if config.mean == "estimated" else set())


def test_normalisation_is_torchvisions(model: SANFlow) -> None:
    images = photographs(1)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images / 255 - mean) / deviation
    torch.testing.assert_close(model.normalise(images), expected.permute(0, 3, 1, 2))


def test_log_likelihood_is_the_formula_of_the_released_evaluation(model: SANFlow) -> None:
    """l = [C G - C/2 log var - ||z||^2 / (2 var) + J] / C with var = min(b / (a + 1), 5)."""
    images = photographs(1)
    with torch.no_grad():
        levels = model.log_likelihoods(images)
        x = model.normalise(images)
        log_maps = model.head(x)
        for k, stride in enumerate((8, 16, 32)):
            v = model.features(x)[k]
            z, log_det = model.flows[k](v)
            a, b = log_maps[:, :, :: stride // 8, :: stride // 8].exp().double().unbind(1)
            var, channels = (b / (a + 1)).clamp(max=5), v.shape[1]
            constant = -0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
            log_p = channels * (constant - var.log() / 2) - (z.double() ** 2).sum(1) / (2 * var)
            expected = (log_p + channels * log_det) / channels
            torch.testing.assert_close(levels[k].double(), expected, rtol=1e-5, atol=1e-5)


def test_an_image_alone_and_in_a_batch_score_the_same(model: SANFlow) -> None:
    images = photographs(4)
    with torch.no_grad():
        together, maps = model(images)
        for i in (0, 3):
            alone, own = model(images[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(own[0], maps[i], rtol=1e-4, atol=1e-5)


def test_seed_decides_everything_and_the_callers_random_state_is_untouched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = SANFlow(CONFIG, seed=1)
    assert torch.equal(torch.rand(1), expected)
    again, other = SANFlow(CONFIG, seed=1), SANFlow(CONFIG, seed=2)
    state = again.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in first.state_dict().items())
    permutation = "flows.0.blocks.0.permutation"
    assert not torch.equal(state[permutation], other.state_dict()[permutation])
    assert sorted(state[permutation].tolist()) == list(range(128))


def test_train_mode_moves_the_head_but_never_the_extractor() -> None:
    model = model_of().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    model.training_terms(model.observe(photographs(2)), masks, model.whole())
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith("head.middle") for k in changed)
    assert not model.extractor.training


def test_drawn_positions_are_a_part_of_all_positions(model: SANFlow) -> None:
    images = photographs(2)
    masks = torch.rand(2, 64, 96) > 0.5
    everything = model.training_terms(model.observe(images), masks, model.whole())
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        (draw,) = model.draws(2, Steps(0.25), generator)
        drawn = model.training_terms(model.observe(images), masks, draw)
        levels = zip(drawn, everything, draw.indices, CONFIG.taps, strict=True)
        for some, whole, index, stride in levels:
            assert index is not None
            assert len(set(index.tolist())) == round(0.25 * 64 * 96 / stride**2)
            for name in ("mean", "square", "log_det", "log_a", "log_b"):
                expected = getattr(whole.latent, name).flatten(1)[:, index]
                torch.testing.assert_close(getattr(some.latent, name)[..., 0], expected)
            assert torch.equal(some.abnormal[..., 0], whole.abnormal.flatten(1)[:, index])


def test_level_max_is_the_largest_over_all_batches() -> None:
    model, images = model_of(), photographs(5)
    model.fit_level_max(images.split([2, 1, 2]))
    with torch.no_grad():
        expected = [level.max() for level in model.log_likelihoods(images)]
    torch.testing.assert_close(model.level_max, torch.stack(expected))
    with pytest.raises(ValueError, match="at least one normal image"):
        model.fit_level_max([])


def test_standard_features_have_mean_zero_and_deviation_one() -> None:
    model = model_of(replace(CONFIG, feature_scale="standard", smooth=3))
    images = photographs(6)
    model.fit_feature_scale(images.split([4, 2]))
    for maps in model.features(model.normalise(images)):
        values = maps.transpose(0, 1).flatten(1).double()
        deviation = values.std(dim=1, correction=0)
        assert values.mean(dim=1).abs().max() < 1e-3
        # Channels that are hardly ever active stay below one.
        assert (deviation > 0.999).float().mean() > 0.5
        assert deviation.max() < 1.001


def test_smoothing_is_a_mean_over_the_neighbours_inside_the_map() -> None:
    plain, smooth = model_of(), model_of(replace(CONFIG, smooth=3))
    smooth.load_state_dict(plain.state_dict())
    x = plain.normalise(photographs(1))
    for before, after in zip(plain.features(x), smooth.features(x), strict=True):
        torch.testing.assert_close(after[..., 0, 0], before[..., :2, :2].mean(dim=(2, 3)))
        if min(before.shape[2:]) >= 3:
            torch.testing.assert_close(after[..., 1, 1], before[..., :3, :3].mean(dim=(2, 3)))


def test_state_holds_all_that_scores_depend_on() -> None:
    config = replace(CONFIG, feature_scale="standard", mean="estimated")
    model, other, images = model_of(config, 1), SANFlow(config, 9).eval(), photographs(2)
    model.fit_feature_scale([images])
    model.fit_level_max([images])
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(images)[1], other(images)[1])


def test_a_fibre_of_a_pooled_level_knows_which_of_its_cells_are_abnormal() -> None:
    config = replace(CONFIG, height=64, width=64, taps=(8,), pools=(4,), variance="unit")
    model, masks = model_of(config), torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 20:30, 40:50] = True  # of 16-pixel cells, those in row 1 and columns 2 and 3
    observed = model.observe(photographs(2, width=64))
    (_, whole) = model.training_terms(observed, masks, model.whole())
    draw = [d for d in model.draws(2, Steps(fibre=8)) if d.levels == (1,)][1]
    (fibre,) = model.training_terms(observed, masks, draw)
    index = draw.indices[0]
    assert index is not None
    assert torch.equal(fibre.abnormal, whole.abnormal.flatten(1)[:, index, None])
    assert whole.abnormal.sum() == 2
    assert fibre.latent.square.shape == fibre.abnormal.shape == (2, 4, 1)
