"""The class token's flow: FrEIA's coupling, autograd's Jacobian, the reference's counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from FrEIA.modules import GLOWCouplingBlock
from torch import Tensor, nn

from sanflow.model.attention import ClassAttention, HiLo
from sanflow.model.fusion_flow import FusionCoupling, FusionFlow, fusion_loss, fusion_score

D = 16


def attend(width: int) -> nn.Module:
    return ClassAttention(width, 4)


def flow(blocks: int = 3) -> FusionFlow:
    torch.manual_seed(1)
    made = FusionFlow(D, 12, blocks, 3.0, attend).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(batch, D).double(), torch.randn(batch, 1, 5, D).double()


def test_a_block_is_freias_glow_coupling() -> None:
    """FrEIA clamps atan(s) where the reference clamps atan(s / clamp)."""
    torch.manual_seed(0)
    block = FusionCoupling(D, 12, 3.0, attend).double()
    y, tokens = inputs()
    x1, x2 = tokens[..., : D // 2], tokens[..., D // 2 :]

    class Bound(nn.Module):
        def __init__(self, subnet: nn.Module, x: Tensor) -> None:
            super().__init__()
            self.subnet, self.x = subnet, x

        def forward(self, half: Tensor) -> Tensor:
            s, t = self.subnet(half, self.x)
            return torch.cat((s / block.clamp, t), dim=1)

    subnets = iter((Bound(block.first, x1), Bound(block.second, x2)))
    oracle = GLOWCouplingBlock(
        [(D,)], subnet_constructor=lambda *_: next(subnets), clamp=3.0, clamp_activation="ATAN"
    )
    (expected,), jacobian = oracle([y])
    got, log_det = block(y, x1, x2)
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    assert torch.allclose(D * log_det, jacobian, rtol=0, atol=1e-12)


def test_inverse() -> None:
    made = flow()
    y, tokens = inputs()
    assert torch.allclose(made.inverse(made(y, tokens)[0], tokens), y, rtol=0, atol=1e-10)


def test_log_determinant_is_autograds() -> None:
    made = flow()
    y, tokens = inputs(1)
    jacobian = torch.autograd.functional.jacobian(lambda v: made(v[None], tokens)[0][0], y[0])
    expected = torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(D * made(y, tokens)[1][0], expected, rtol=1e-9)


def test_the_tokens_are_permuted_with_the_class_token_and_passed_on() -> None:
    """Straight picking of halves is what block after block of permuting the tokens gives."""
    made = flow()
    y, tokens = inputs()
    z = y
    for block, order in zip(made.blocks, made.order, strict=True):
        z, tokens = z[:, order], tokens[..., order]
        z, _ = block(z, tokens[..., : D // 2], tokens[..., D // 2 :])
    assert torch.equal(made(*inputs())[0], z)


def test_scales_stay_within_the_clamp_and_tokens_within_the_limit() -> None:
    made = flow(1)
    y, tokens = inputs()
    assert made(1e9 * y, tokens)[0].abs().max() <= 1e6
    assert made(1e9 * y, 1e9 * tokens)[1].abs().max() < 3


def test_loss_and_score_in_numpy() -> None:
    rng = np.random.default_rng(0)
    z, log_det = rng.normal(size=(4, D)), rng.normal(size=4)
    total = fusion_loss(torch.from_numpy(z), torch.from_numpy(log_det))
    assert float(total) == pytest.approx(np.mean(0.5 * (z**2).sum(1) - D * log_det) / D, rel=1e-12)
    score = fusion_score(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(score, (z**2).mean(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("width", "blocks", "heads", "windows", "millions"),
    [(768, 2, 4, False, 13.58), (768, 4, 4, False, 27.17), (1024, 4, 4, False, 48.28),
     (768, 4, 8, True, 25.99)],
)  # fmt: skip
def test_parameter_counts_of_the_reference(
    width: int, blocks: int, heads: int, windows: bool, millions: float
) -> None:
    with torch.device("meta"):
        kind = HiLo if windows else ClassAttention
        block = FusionCoupling(width, width, 3.0, lambda half: kind(half, heads))
    count = blocks * sum(parameter.numel() for parameter in block.parameters())
    assert round(count / 1e6, 2) == millions


def test_mixed_precision_rounds_no_log_determinant() -> None:
    """Only products are rounded; a mean of rounded scales would lose all but three digits."""
    made, (y, tokens) = flow().float(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = made(y.float(), tokens.float())
    assert z.dtype == log_det.dtype == torch.float32
