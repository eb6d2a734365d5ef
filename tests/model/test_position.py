"""The position code against its definition, and its cheap projection against the plain product."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from sanflow.model.position import PositionCode, take


def test_code_is_the_sinusoid_of_column_then_row() -> None:
    dim, height, width = 12, 3, 5
    code = PositionCode(dim, height, width)()
    half = dim // 2
    expected = torch.empty(dim, height, width)
    for j in range(half // 2):
        w = 10000 ** (-2 * j / half)
        for r in range(height):
            for c in range(width):
                expected[2 * j, r, c], expected[2 * j + 1, r, c] = math.sin(c * w), math.cos(c * w)
                expected[half + 2 * j, r, c] = math.sin(r * w)
                expected[half + 2 * j + 1, r, c] = math.cos(r * w)
    torch.testing.assert_close(code[0], expected, rtol=0, atol=1e-6)


def test_projection_equals_the_product_with_the_whole_code() -> None:
    code = PositionCode(16, 4, 6).double()
    weight = torch.randn(7, 16, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(code.project(weight), F.conv2d(code(), weight))


def test_projection_at_drawn_positions() -> None:
    code, index = PositionCode(16, 4, 6), torch.tensor([23, 0, 7])
    weight = torch.randn(7, 16, 1, 1)
    at = code.project(weight, index)
    assert at.shape == (1, 7, 3, 1)
    whole = code.project(weight)
    for n, (row, column) in enumerate([(3, 5), (0, 0), (1, 1)]):
        torch.testing.assert_close(at[..., n, 0], whole[..., row, column])


def test_take_is_row_major() -> None:
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert take(maps, torch.tensor([5])).flatten().tolist() == [5.0, 17.0]


def test_code_is_rebuilt_not_stored() -> None:
    assert not PositionCode(16, 4, 4).state_dict()
