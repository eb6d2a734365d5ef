"""Every pass against the unfolded model in float64, and on blocks of FrEIA's that are not ours."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sanflow.export import passes
from sanflow.export.compile import PASSES, compile_model
from sanflow.export.deploy import Affine, Block, DeployModel, First, Gather, Heads, Latents, Level
from sanflow.export.deploy import convolution as conv
from sanflow.export.likelihood import Likelihood
from sanflow.export.naive import Factor, JoinedFirst, SumLikelihood, naive
from sanflow.model.config import SanflowConfig
from sanflow.model.position import PositionCode
from sanflow.model.sanflow import SANFlow

from .conftest import noise, small_model

Z, LL = 1e-12, 1e-9

SWITCHES: list[dict[str, Any]] = [
    {},
    {"variance": "fixed", "taps": (4,), "pools": (8, 4)},
    {"variance": "unit", "map_sigma": 1.0, "fusion": "log_likelihood"},
    {"mean": "estimated", "variance_rule": "expectation"},
    {"feature_scale": "standard", "pools": (4, 1), "pool_weight": 0.5, "map_sigma": 3.0},
    {"feature_scale": "position", "pools": (2,), "taps": (8, 16), "fusion": "log_likelihood"},
    {"extractor": "mobilenet_v3_large", "taps": (8, 16, 32), "image_score": "top", "blocks": 1},
]


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).abs().max() / truth.abs().max())


def model_latents(model: SANFlow, images: Tensor) -> list[Tensor]:
    """z of every level, before any mean is taken from it."""
    features = model.features(model.normalise(images))
    return [flow(v)[0] for flow, v in zip(model.flows, features, strict=True)]


def state_latents(state: DeployModel, images: Tensor, orders: list[Tensor]) -> list[Tensor]:
    """z of a state with what passes left to the likelihood undone."""
    latents = []
    for k, z in enumerate(state.latents(images).z):
        level = state.levels[k]
        if isinstance(state.likelihood, Likelihood) and state.head.mean is None:
            spread = {"unit": 1.0, "fixed": state.config.prior_variance}
            weight = cast(Tensor, state.likelihood.squares[k].weight)
            z = z * (weight * 2 * z.shape[1] * spread.get(state.config.variance, 1.0)).sqrt()
        dropped = isinstance(level, Level) and isinstance(level.blocks[-1].mix, nn.Identity)
        latents.append(z.index_select(1, orders[k]) if dropped else z)
    return latents


@pytest.mark.parametrize("changes", SWITCHES, ids=lambda c: " ".join(map(str, c.values())) or "-")
def test_every_pass_keeps_latents_likelihoods_and_scores(changes: dict[str, Any]) -> None:
    model = small_model(**{"height": 64, "width": 64, **changes})
    images = noise(2, model, seed=1)
    truth = copy.deepcopy(model).double()
    orders = [cast(Tensor, flow.blocks[-1].permutation) for flow in model.flows]
    with torch.no_grad():
        z = model_latents(truth, images)
        levels = zip(truth.log_likelihoods(images), truth.level_max, strict=True)
        above = [m - level for level, m in levels]
        score, heat = truth(images)
        state = naive(model)
        for apply in (lambda state: state, *(p[0] for p in PASSES)):
            state = apply(state)
            found = state_latents(state, images, orders)
            assert max(map(relative, found, z)) <= Z, apply.__name__
            likelihood = cast(Likelihood, state.likelihood)
            for mine, theirs in zip(likelihood.above(state.latents(images)), above, strict=True):
                torch.testing.assert_close(mine[:, 0], theirs, rtol=0, atol=LL)
            mine_score, mine_heat = state(images)
            torch.testing.assert_close(mine_score, score, rtol=0, atol=LL)
            torch.testing.assert_close(mine_heat, heat, rtol=0, atol=LL)


def test_nothing_of_the_naive_form_is_left() -> None:
    model = compile_model(small_model(feature_scale="standard", taps=(8, 16))).model
    kinds = {type(module).__name__ for module in model.modules()}
    assert not {"JoinedFirst", "Factor", "Rows", "DenseHead", "SumLikelihood", "Linear"} & kinds
    assert not {"BatchNorm2d", "FeatureScale"} & kinds
    for level in model.levels:
        *inner, last = level.blocks
        assert all(isinstance(block.mix, Gather) for block in inner)
        assert isinstance(last.mix, nn.Identity)
        assert all(isinstance(block.norm, nn.Identity) for block in level.blocks)


def test_the_trained_model_is_left_alone() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compile_model(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# Blocks of other methods: FrEIA's own, with soft rotations or with zero-padded 3x3 subnets.

CHANNELS, SIZE = 6, (5, 4)


class Given(nn.Module):
    """Stands for pixels and extractor: the input is the feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = nn.ModuleList([nn.Identity()])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.entries[0](x)]


def freia_block(soft: bool, kernel: int, condition: int) -> nn.Module:
    modules = pytest.importorskip("FrEIA.modules", reason="FrEIA is the oracle (dev extra)")

    def subnet(inputs: int, outputs: int) -> nn.Module:
        pad = kernel // 2
        return nn.Sequential(
            nn.Conv2d(inputs, 2 * inputs, kernel, padding=pad),
            nn.ReLU(),
            nn.Conv2d(2 * inputs, outputs, kernel, padding=pad),
        )

    block = modules.AllInOneBlock(
        [(CHANNELS, *SIZE)],
        [(condition, *SIZE)] if condition else [],
        subnet_constructor=subnet,
        affine_clamping=1.9,
        permute_soft=soft,
    )
    block.double().requires_grad_(False)
    for name, parameter in block.named_parameters():
        if "w_perm" not in name:
            parameter += 0.3 * torch.randn_like(parameter)
    # FrEIA keeps rotations in FP32, orthogonal to 1e-8 only.
    matrix, _ = torch.linalg.qr(block.w_perm[:, :, 0, 0])
    block.w_perm.data = (matrix if soft else block.w_perm[:, :, 0, 0])[:, :, None, None]
    return cast(nn.Module, block)


def as_block(oracle: Any, code: Tensor | None) -> Block:
    first, last = (copy.deepcopy(oracle.subnet[i]) for i in (0, 2))
    scale = 0.1 * nn.functional.softplus(oracle.global_scale, beta=0.5)
    return Block(
        First(first) if code is None else JoinedFirst(first, code),
        Factor(last, 0.1),
        Affine(scale.view(-1, 1, 1).clone(), oracle.global_offset.view(-1, 1, 1).clone()),
        conv(oracle.w_perm.clone(), None),
        1.9,
        CHANNELS - CHANNELS // 2,
    )


def holder(level: Level) -> DeployModel:
    """What the passes over blocks need of a model."""
    module = nn.Module()
    module.levels, module.head = nn.ModuleList([level]), Heads(None, None)
    return cast(DeployModel, module)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kernels", [(1, 1, 1), (3, 3, 3), (3, 1, 3)])
@pytest.mark.parametrize("condition", [0, 8])
def test_passes_on_freias_blocks(soft: bool, kernels: tuple[int, ...], condition: int) -> None:
    """z relative to 1e-12, log-determinant and likelihood to 1e-9, after every pass."""
    torch.manual_seed(1)
    oracles = [freia_block(soft, kernel, condition) for kernel in kernels]
    code = PositionCode(condition, *SIZE).double()() if condition else None
    x = torch.randn(2, CHANNELS, *SIZE, dtype=torch.float64)
    z, log_det = x, torch.zeros(2, dtype=torch.float64)
    for oracle in oracles:
        given = [] if code is None else [code.expand(2, -1, -1, -1)]
        (z,), step = oracle([z], given)
        log_det = log_det + step
    config = SanflowConfig(extractor="resnet18", taps=(8,), height=64, width=64, variance="unit")
    scales = torch.stack([nn.functional.softplus(o.global_scale, beta=0.5) * 0.1 for o in oracles])
    level = Level([as_block(o, code) for o in oracles], SIZE, scales.log().flatten(1).sum(dim=1))
    maximum = torch.zeros(1, dtype=torch.float64)
    state = DeployModel(
        config, nn.Identity(), Given(), Heads(None, None), [level], SumLikelihood(config, maximum)
    )
    above = 0.5 * (z * z).mean(dim=1) + 0.5 * math.log(2 * math.pi)
    last = oracles[-1].w_perm[:, :, 0, 0]
    for apply in (
        lambda state: state,
        passes.fold_condition,
        passes.gather_permutations,
        passes.drop_last_mix,
        passes.fold_factor,
        passes.fold_norms,
        passes.freeze_likelihood,
    ):
        state = apply(state)
        latents = cast(Latents, state.latents(x))
        found = latents.z[0]
        if isinstance(state.likelihood, Likelihood):
            found = found * (state.likelihood.squares[0].weight * 2 * CHANNELS).sqrt()
        if isinstance(level.blocks[-1].mix, nn.Identity):
            found = torch.einsum("ij,bjhw->bihw", last, found)
        assert relative(found, z) <= Z, apply.__name__
        if level.log_scales is not None:
            torch.testing.assert_close(latents.log_det[0].sum((1, 2)), log_det, rtol=0, atol=LL)
        mine = cast(Likelihood, state.likelihood).above(latents)[0][:, 0]
        # A map of log-determinants is known to FrEIA only as its sum over positions.
        whole = above.sum((1, 2)) - log_det / CHANNELS
        torch.testing.assert_close(mine.sum((1, 2)), whole, rtol=0, atol=LL)
    kinds = [type(block.mix) for block in level.blocks]
    assert kinds == [*([nn.Conv2d if soft else Gather] * 2), nn.Identity]
    assert not any(isinstance(block.norm, Affine) for block in level.blocks)


def test_a_padded_subnet_needs_its_bias_map() -> None:
    """The plain fold, an offset as one bias per channel, is wrong at the border only."""
    torch.manual_seed(0)
    oracle = freia_block(False, 3, 0)
    blocks = [as_block(oracle, None), as_block(oracle, None)]
    level = Level(blocks, SIZE, torch.zeros(2))
    fold_level: Callable[..., nn.Module] = passes._fold_level
    for apply in (passes.gather_permutations, passes.fold_factor):
        apply(holder(level))
    entry = fold_level(level, nn.Identity())
    assert isinstance(entry, Affine)
    (term,) = blocks[1].first.terms
    inner = term[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, inner[:, :, :1, :1].expand_as(inner))
    assert (term - inner[:, :, :1, :1]).abs().max() > 1e-3


def test_an_unknown_mix_is_left_alone() -> None:
    """A matrix that is no rotation must stay, and no fold may move it."""
    torch.manual_seed(2)
    block = as_block(freia_block(False, 1, 0), None)
    block.mix = conv(torch.randn(CHANNELS, CHANNELS, 1, 1, dtype=torch.float64), None)
    level = Level([block], SIZE, torch.zeros(1))
    for apply in (passes.gather_permutations, passes.drop_last_mix):
        apply(holder(level))
    assert isinstance(block.mix, nn.Conv2d)
