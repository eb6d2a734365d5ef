"""The statistics head around sampled positions is the dense head, sampled."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanflow.export.head import Head


def layers(width: int, bias: bool) -> list[nn.Conv2d]:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        channels = (3, width, width, width, width, 2)
        made = [nn.Conv2d(i, o, 3, bias=bias) for i, o in pairwise(channels)]
    return [layer.double().requires_grad_(False) for layer in made]


def sampled(parts: list[nn.Conv2d], x: Tensor, stride: int) -> Tensor:
    """Every pixel of every layer, then nearest sampling."""
    skip = h = F.relu(F.conv2d(x, parts[0].weight, parts[0].bias, padding=1))
    for layer in parts[1:-1]:
        h = F.relu(F.conv2d(h, layer.weight, layer.bias, padding=1))
    maps = F.conv2d(h + skip, parts[-1].weight, parts[-1].bias, padding=1)
    return maps[:, :, ::stride, ::stride]


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (32, 128)])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_dense_head(size: tuple[int, int], stride: int, bias: bool) -> None:
    parts = layers(6, bias)
    x = torch.randn(3, 3, *size, dtype=torch.float64) * 50
    found = Head(copy.deepcopy(parts), stride, *size)(x)
    assert found.shape == (3, 2, size[0] // stride, size[1] // stride)
    torch.testing.assert_close(found, sampled(parts, x, stride), rtol=1e-12, atol=1e-12)


def test_one_pixel_moves_only_the_positions_within_reach() -> None:
    head = Head(layers(4, True), 8, 64, 64)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = head(x)
    x[0, :, 0, 20] += 10
    moved = (head(x) != before).any(dim=1)[0].nonzero()
    assert moved.tolist() == [[0, 2], [0, 3]]


def test_an_image_alone_and_in_a_batch() -> None:
    head = Head(layers(4, True), 8, 64, 64)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(head(images)[2:3], head(images[2:3]), rtol=1e-12, atol=1e-12)
