"""The coupling block against FrEIA's, and against autograd's Jacobian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sanflow.model.coupling import Coupling, random_rotation
from sanflow.model.position import PositionCode

SHAPES = [(8, 8), (7, 12), (2, 4)]


def block_of(channels: int, dim: int, dtype: torch.dtype = torch.float64, **kind: Any) -> Coupling:
    """A block whose every parameter is away from its initial value."""
    torch.manual_seed(channels)
    block = Coupling(channels, dim, clamp=1.9, **kind)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        block.last.weight *= 5
    return block.to(dtype)


def freia_of(block: Coupling, channels: int, dim: int) -> nn.Module:
    """FrEIA's AllInOneBlock on vectors with the same weights and permutation."""
    modules = pytest.importorskip("FrEIA.modules", reason="FrEIA is the oracle (dev extra)")

    def subnet(inputs: int, outputs: int) -> nn.Module:
        first, last = nn.Linear(inputs, 2 * inputs), nn.Linear(2 * inputs, outputs)
        for linear, conv in ((first, block.first), (last, block.last)):
            linear.weight.data = conv.weight.data[:, :, 0, 0].clone()
            linear.bias.data = conv.bias.data.clone()
        return nn.Sequential(first, nn.ReLU(), last)

    oracle = modules.AllInOneBlock(
        [(channels,)], [(dim,)], subnet_constructor=subnet, affine_clamping=1.9
    )
    oracle.global_scale.data = block.global_scale.data[:, :, 0, 0].clone()
    oracle.global_offset.data = block.global_offset.data[:, :, 0, 0].clone()
    matrix = torch.eye(channels, dtype=torch.float64)[block.permutation]
    oracle.w_perm.data, oracle.w_perm_inv.data = matrix, matrix.T.contiguous()
    return oracle.double()


def vectors(maps: Tensor) -> Tensor:
    """(B, C, H, W) as one row per position."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize(("channels", "dim"), SHAPES)
@pytest.mark.parametrize("backwards", [False, True])
def test_equals_freia(channels: int, dim: int, backwards: bool) -> None:
    block, code = block_of(channels, dim), PositionCode(dim, 3, 4).double()
    oracle = freia_of(block, channels, dim)
    y = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    ours, log_det = block.inverse(y, code) if backwards else block(y, code)
    condition = vectors(code().expand(2, -1, -1, -1))
    (theirs,), their_log_det = oracle([vectors(y)], [condition], rev=backwards)
    torch.testing.assert_close(vectors(ours), theirs)
    torch.testing.assert_close(channels * log_det.flatten(), their_log_det)


def test_starts_as_freia_does() -> None:
    """Unit global scale, no offset, and PyTorch's default for the subnet's weights."""
    block = Coupling(16, 16, clamp=1.9)
    torch.testing.assert_close(block._scale(), torch.ones(1, 16, 1, 1))
    assert not block.global_offset.any()
    bound = (8 + 16) ** -0.5
    largest = block.first.weight.abs().max().item()
    assert 0.9 * bound < largest <= bound


@pytest.mark.parametrize(("channels", "dim"), SHAPES)
def test_log_det_is_that_of_autograds_jacobian(channels: int, dim: int) -> None:
    block, code = block_of(channels, dim), PositionCode(dim, 1, 1).double()
    y = torch.randn(channels, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: block(v[None, :, None, None], code)[0].flatten(), y
    )
    _, log_det = block(y[None, :, None, None], code)
    torch.testing.assert_close(channels * log_det.squeeze(), jacobian.slogdet().logabsdet)


@pytest.mark.parametrize(("channels", "dim"), SHAPES)
def test_inverse_undoes_forward(channels: int, dim: int) -> None:
    block, code = block_of(channels, dim), PositionCode(dim, 3, 4).double()
    y = torch.randn(2, channels, 3, 4, dtype=torch.float64)
    z, forwards = block(y, code)
    back, backwards = block.inverse(z, code)
    torch.testing.assert_close(back, y)
    torch.testing.assert_close(backwards, -forwards)


def test_scale_factor_stays_within_the_clamp() -> None:
    block, code = block_of(8, 8), PositionCode(8, 4, 4).double()
    with torch.no_grad():
        block.last.weight *= 1e4
        block.global_scale.fill_(9.98648)  # g = 1
    _, log_det = block(torch.randn(1, 8, 4, 4, dtype=torch.float64), code)
    assert log_det.abs().max() <= 1.9 / 2 + 1e-6


def test_mixed_precision_keeps_the_variable_in_its_own_type() -> None:
    block, code = block_of(8, 8, torch.float32), PositionCode(8, 4, 4)
    y = torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = block(y, code)
    assert z.dtype == log_det.dtype == torch.float32
    exact, _ = block(y, code)
    torch.testing.assert_close(z, exact, rtol=0.05, atol=0.1)


KINDS: list[dict[str, Any]] = [
    {"soft": True},
    {"kernel": 3, "ratio": 1.0},
    {"kernel": 3, "ratio": 0.5, "soft": True},
    {"ratio": 1.0},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("backwards", [False, True])
def test_maps_equal_freias(kind: dict[str, Any], backwards: bool) -> None:
    """Soft rotations and zero-padded 3x3 subnets without a condition, on whole maps."""
    modules = pytest.importorskip("FrEIA.modules", reason="FrEIA is the oracle (dev extra)")
    channels, size = 7, (5, 4)
    block = block_of(channels, 0, **kind)

    def subnet(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(block.first, nn.ReLU(), block.last)

    oracle = modules.AllInOneBlock(
        [(channels, *size)], [], subnet_constructor=subnet, affine_clamping=1.9
    ).double()
    oracle.global_scale.data = block.global_scale.data.clone()
    oracle.global_offset.data = block.global_offset.data.clone()
    matrix = block.matrix()[:, :, None, None]
    oracle.w_perm.data, oracle.w_perm_inv.data = matrix, matrix.transpose(0, 1).contiguous()
    y = torch.randn(2, channels, *size, dtype=torch.float64)
    ours, log_det = block.inverse(y, None) if backwards else block(y, None)
    (theirs,), their_log_det = oracle([y], rev=backwards)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(channels * log_det.sum((1, 2)), their_log_det)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_log_det_of_a_whole_map_is_autograds(kind: dict[str, Any]) -> None:
    """Neighbours see each other, and still the sum over positions is log|det dz/dy|."""
    block, size = block_of(4, 0, **kind), (3, 4)
    y = torch.randn(4 * 12, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: block(v.view(1, 4, *size), None)[0].flatten(), y
    )
    _, log_det = block(y.view(1, 4, *size), None)
    torch.testing.assert_close(4 * log_det.sum(), jacobian.slogdet().logabsdet)


def test_a_random_rotation_is_one_and_no_two_are_alike() -> None:
    torch.manual_seed(0)
    for channels in (1, 2, 5, 16):
        matrices = [random_rotation(channels).double() for _ in range(4)]
        for matrix in matrices:
            torch.testing.assert_close(
                matrix @ matrix.T, torch.eye(channels, dtype=torch.float64), atol=1e-6, rtol=0
            )
            assert matrix.det().item() == pytest.approx(1, abs=1e-5)
        if channels > 1:
            assert not torch.allclose(matrices[0], matrices[1])


def test_a_rotation_can_be_sent_to_other_processes() -> None:
    """NCCL refuses what is not stored row by row, and so does safetensors."""
    assert random_rotation(6).is_contiguous()


def test_rotations_are_drawn_evenly() -> None:
    """Of SO(3): the trace 1 + 2 cos(angle) has mean 0 and variance 1."""
    torch.manual_seed(0)
    traces = torch.stack([random_rotation(3).trace() for _ in range(2000)])
    assert abs(traces.mean().item()) < 0.08
    assert traces.var().item() == pytest.approx(1, abs=0.1)


def test_mixed_precision_does_not_round_a_rotation() -> None:
    block = block_of(8, 0, torch.float32, soft=True)
    with torch.no_grad():
        block.last.weight.zero_()
        block.last.bias.zero_()
    y = torch.randn(1, 8, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = block(y, None)
    assert torch.equal(mixed, block(y, None)[0])
