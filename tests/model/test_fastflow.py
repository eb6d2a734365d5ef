"""FastFlow: Jacobians of whole maps, losses and scores in NumPy, and its published sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sanflow.model.config import LossConfig
from sanflow.model.fastflow import FastFlow
from sanflow.model.flow import Flow
from sanflow.model.flow_config import FastflowConfig
from sanflow.model.latents import Latent
from sanflow.model.likelihood import LOG_GAUSS

SMALL: dict[str, Any] = {
    "extractor": "resnet18",
    "height": 64,
    "width": 96,
    "blocks": 3,
    "head_width": 4,
}
NOTHING = torch.zeros(2, 64, 96, dtype=torch.bool)


def model_of(**changes: Any) -> FastFlow:
    """A model whose flows and LayerNorms are away from their initial values."""
    model = FastFlow(FastflowConfig(**{**SMALL, **changes})).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for part in (*model.flows, *model.scalers):
            for parameter in part.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return model


def photographs(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 64, 96, 3), generator=generator, dtype=torch.uint8)


def latents_of(model: FastFlow, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """z and the log-determinant of the whole map, (B, C, H, W) and (B,)."""
    with torch.no_grad():
        features = model.features(model.normalise(images))
        found = [flow(v) for flow, v in zip(model.flows, features, strict=True)]
    return [(z.double(), z.shape[1] * j.double().sum((1, 2))) for z, j in found]


def test_the_flow_knows_its_whole_jacobian() -> None:
    torch.manual_seed(0)
    flow = Flow(4, 3, 4, position_dim=0, blocks=3, clamp=2.0, kernels=(3, 1), ratio=1.0).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    v = torch.randn(48, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: flow(v.view(1, 4, 3, 4))[0].flatten(), v
    )
    z, log_det = flow(v.view(1, 4, 3, 4))
    torch.testing.assert_close(4 * log_det.sum(), jacobian.slogdet().logabsdet)
    back, _ = flow.inverse(z)
    torch.testing.assert_close(back.flatten(), v)


def test_kernels_take_turns_unless_all_are_3x3() -> None:
    def kernels(**changes: Any) -> list[int]:
        flow = model_of(**changes).flows[0]
        return [block.first.kernel_size[0] for block in flow.blocks]

    assert kernels() == [3, 1, 3]
    assert kernels(conv3x3_only=True) == [3, 3, 3]


def test_the_loss_is_nats_per_image() -> None:
    model, images = model_of(), photographs()
    total, values = model.loss(model.observe(images), NOTHING, model.whole(), LossConfig())
    expected = sum(
        (0.5 * (z**2).sum((1, 2, 3)) - j).mean().item() for z, j in latents_of(model, images)
    )
    assert total.item() == values["loss"] == pytest.approx(expected, rel=1e-5)


def test_scores_ignore_the_log_determinant() -> None:
    model, images = model_of(), photographs()
    before = model.level_max.clone()
    model.fit_level_max([images])
    assert torch.equal(model.level_max, before)
    score, heat = model(images)
    maps = [torch.exp(-0.5 * (z**2).mean(dim=1)) for z, _ in latents_of(model, images)]
    ups = [
        nn.functional.interpolate(p[:, None], (64, 96), mode="bilinear", align_corners=False)[:, 0]
        for p in maps
    ]
    expected = 3 - sum(ups)
    np.testing.assert_allclose(heat.detach(), expected, atol=1e-5)
    np.testing.assert_allclose(score.detach(), expected.amax((1, 2)), atol=1e-5)


def test_layer_norms_see_the_whole_map_and_learn() -> None:
    model, images = model_of().train(), photographs()
    for scaler in model.scalers:
        nn.init.ones_(scaler.weight)
        nn.init.zeros_(scaler.bias)
    for maps in model.features(model.normalise(images)):
        torch.testing.assert_close(maps.mean((1, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
        deviation = maps.flatten(1).std(dim=1, correction=0)
        torch.testing.assert_close(deviation, torch.ones(2), atol=1e-2, rtol=0)
    model.loss(model.observe(images), NOTHING, model.whole(), LossConfig())[0].backward()
    learning = {k.split(".")[0] for k, p in model.named_parameters() if p.grad is not None}
    assert learning == {"flows", "scalers"}


def test_with_a_head_the_loss_and_the_score_are_those_of_the_reference() -> None:
    """NLL per position summed over channels, J / N, KL; P = exp(-1/2 log var - z^2 / 2 var - m)."""
    model, images = model_of(method="fastflow-sp"), photographs()
    observed = model.observe(images)
    total, values = model.loss(observed, NOTHING, model.whole(), LossConfig(kl_weight=0.2))
    assert observed.gamma is not None
    expected, kl_sum = 0.0, 0.0
    for k, (z, j) in enumerate(latents_of(model, images)):
        step = 2**k
        log_a, log_b = observed.gamma[:, :, ::step, ::step].double().unbind(1)
        a, b, channels = log_a.exp(), log_b.exp(), z.shape[1]
        square = (z**2).sum(dim=1)
        nll = 0.5 * channels * (log_b - torch.digamma(a)) + a / (2 * b) * square
        count = z.shape[2] * z.shape[3]
        kl = kl_of(a, b).mean().item()
        expected += nll.mean().item() - channels * LOG_GAUSS - j.mean().item() / count + 0.2 * kl
        kl_sum += kl / channels
    assert total.item() == pytest.approx(expected, rel=1e-4)
    assert values["kl"] == pytest.approx(kl_sum, rel=1e-4)
    for k, (level, (z, _)) in enumerate(
        zip(model.log_likelihoods(images), latents_of(model, images), strict=True)
    ):
        log_a, log_b = observed.gamma[:, :, :: 2**k, :: 2**k].double().unbind(1)
        variance = (log_b.exp() / (log_a.exp() + 1)).clamp(max=5)
        expected_level = LOG_GAUSS - variance.log() / 2 - (z**2).mean(dim=1) / (2 * variance)
        np.testing.assert_allclose(level.detach(), expected_level.detach(), atol=1e-3, rtol=1e-4)


def kl_of(a: Tensor, b: Tensor) -> Tensor:
    """Eq. 4."""
    a0, b0 = torch.tensor(59.5, dtype=a.dtype), torch.tensor(6.05, dtype=a.dtype)
    gammas = torch.lgamma(a0) - torch.lgamma(a)
    return (a - a0) * torch.digamma(a) + gammas + a0 * (b.log() - b0.log()) + a * (b0 / b - 1)


def test_a_head_leaves_no_known_maximum() -> None:
    model, images = model_of(method="fastflow-sp"), photographs()
    assert model.fits_level_max
    model.fit_level_max([images])
    with torch.no_grad():
        expected = torch.stack([level.amax() for level in model.log_likelihoods(images)])
    torch.testing.assert_close(model.level_max, expected)
    assert not model_of().fits_level_max


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"extractor": "wide_resnet50_2"}, 45.0),
        ({"extractor": "resnet18", "conv3x3_only": True}, 5.57),
    ],
    ids=str,
)
def test_the_number_of_parameters(changes: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        model = FastFlow(FastflowConfig(**changes))
    learned = [*model.flows.parameters(), *model.scalers.parameters()]
    assert sum(p.numel() for p in learned) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_positions_cannot_be_drawn() -> None:
    from sanflow.config import OptimConfig, RunConfig
    from sanflow.data.config import SynthConfig

    with pytest.raises(ValueError, match="fastflow trains whole images"):
        RunConfig(
            model=FastflowConfig(**SMALL),
            synth=SynthConfig(enabled=False),
            optim=OptimConfig(positions=0.5),
        )


def test_latents_have_the_channels_of_their_level() -> None:
    model, images = model_of(), photographs()
    latents: list[Latent] = model.latents(model.observe(images), model.whole())
    assert [latent.channels for latent in latents] == [64, 128, 256]
    assert [tuple(latent.square.shape) for latent in latents] == [
        (2, 16, 24),
        (2, 8, 12),
        (2, 4, 6),
    ]
