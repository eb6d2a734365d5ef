"""The window form of the statistics head is the dense form, computed where it is sampled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sanflow.export.deploy import Head
from sanflow.export.windows import WindowHead


def a_head(width: int, stride: int, bias: bool) -> Head:
    def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)

    with torch.random.fork_rng():
        torch.manual_seed(width)
        middle = [layer(width, width) for _ in range(3)]
        return Head(layer(3, width), middle, layer(width, 2, stride)).double().requires_grad_(False)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (32, 128)])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("bias", [True, False])
def test_windows_give_the_dense_heads_values(
    height: int, width: int, stride: int, bias: bool
) -> None:
    head = a_head(6, stride, bias)
    images = torch.randn(3, 3, height, width, dtype=torch.float64) * 50
    dense = head(images)
    windows = WindowHead(head, stride, height, width)(images)
    assert windows.shape == dense.shape == (3, 2, height // stride, width // stride)
    torch.testing.assert_close(windows, dense, rtol=1e-12, atol=1e-12)


def test_an_image_alone_and_in_a_batch() -> None:
    head = a_head(4, 8, True)
    form = WindowHead(head, 8, 64, 64)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(form(images)[2:3], form(images[2:3]), rtol=1e-12, atol=1e-12)
