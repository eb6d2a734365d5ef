"""The statistics head: its size, and its strided last convolution against nearest sampling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sanflow.model.head import StatisticsHead


def pair(stride: int) -> tuple[StatisticsHead, StatisticsHead]:
    """A strided head and the same one at full resolution."""
    strided, full = StatisticsHead(6, 2, stride), StatisticsHead(6, 2, 1)
    full.load_state_dict(strided.state_dict())
    return strided, full


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [4, 8])
def test_equals_nearest_resize_of_the_full_maps(stride: int, training: bool) -> None:
    strided, full = pair(stride)
    x = torch.randn(2, 3, 32, 64)
    ours = strided.train(training)(x)
    nearest = F.interpolate(full.train(training)(x), (32 // stride, 64 // stride), mode="nearest")
    torch.testing.assert_close(ours, nearest)


def test_coarser_levels_are_slices_of_the_finest() -> None:
    strided, full = pair(8)
    x = torch.randn(1, 3, 64, 64)
    coarse = F.interpolate(full.eval()(x), (2, 2), mode="nearest")
    torch.testing.assert_close(strided.eval()(x)[:, :, ::4, ::4], coarse)


def test_size_and_receptive_field_are_the_papers() -> None:
    head = StatisticsHead(64, 2, 1)
    convolutions = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.weight.numel() for m in convolutions) == 113_472
    assert all(m.bias is None for m in convolutions)
    x = torch.randn(1, 3, 31, 31, requires_grad=True)
    head.eval()(x)[0, :, 15, 15].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (10, 20)  # 11 x 11
