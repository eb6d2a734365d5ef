"""Attention of one query against keys and values written out, window by window."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanflow.model.attention import ClassAttention, HiLo, SingleQuery

W, HEADS = 24, 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def written_out(module: SingleQuery, y: Tensor, tokens: Tensor) -> Tensor:
    """With a key and a value for every token, by PyTorch's own attention: (B, width)."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (module.heads, -1)).transpose(1, 2)

    out = F.scaled_dot_product_attention(
        heads(module.query(y)[:, None]), heads(module.key(tokens)), heads(module.value(tokens))
    )
    return out.transpose(1, 2).flatten(1)


def test_the_reordered_products_are_attention() -> None:
    module = SingleQuery(W, 16, HEADS).double()
    y, tokens = torch.randn(3, W).double(), torch.randn(3, 1, 7, W).double()
    expected = written_out(module, y, tokens[:, 0])
    assert torch.allclose(module(y, tokens), expected, rtol=0, atol=1e-13)


def test_a_class_token_sees_itself() -> None:
    module = ClassAttention(W, HEADS).double()
    y, tokens = torch.randn(3, W).double(), torch.randn(3, 1, 7, W).double()
    memory = torch.cat((y[:, None], tokens[:, 0]), dim=1)
    expected = module.out(written_out(module.attend, y, memory))
    assert torch.allclose(module(y, tokens), expected, rtol=0, atol=1e-13)
    assert expected.shape == (3, 2 * W)


def test_high_frequencies_are_the_mean_over_windows_low_ones_lie_between_them() -> None:
    module = HiLo(W, HEADS).double()
    y, windows = torch.randn(3, W).double(), torch.randn(3, 5, 9, W).double()
    inside = torch.stack([written_out(module.high, y, windows[:, g]) for g in range(5)])
    high = module.high_out(inside.mean(dim=0))
    low = module.low_out(written_out(module.low, y, windows.mean(dim=2)))
    assert torch.allclose(module(y, windows), torch.cat((high, low), dim=1), rtol=0, atol=1e-13)


def test_an_odd_number_of_heads_still_gives_twice_the_width() -> None:
    y, windows = torch.randn(1, 15), torch.randn(1, 2, 4, 15)
    assert HiLo(15, 5)(y, windows).shape == (1, 30)


def test_windows_with_one_token_each_leave_high_frequencies_no_choice() -> None:
    """Softmax over a single token is 1: the high half is then linear in the tokens."""
    module = HiLo(W, HEADS).double()
    y, windows = torch.randn(1, W).double(), torch.randn(1, 4, 1, W).double()
    other = torch.randn(1, W).double()
    assert torch.allclose(module(y, windows)[:, :W], module(other, windows)[:, :W])
