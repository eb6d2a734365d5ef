"""Attention of a single query: what one token sees in many, without a key or value for any of them.

With one query the products reorder: q . (W_k m_j) = (W_k^T q) . m_j, and sum_j a_j W_v m_j =
W_v sum_j a_j m_j. So the query is carried to the tokens instead of the tokens to keys and values:
2 w^2 multiplications instead of 2 n w^2 for n tokens of w channels, to the same numbers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class SingleQuery(nn.Module):
    """Multi-head attention of y (B, w) over tokens m (B, G, n, w), by itself in each of G groups.

    `width` channels over all heads, no biases; softmax(q K^T / sqrt(width / heads)) V.
    """

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(inputs, width, bias=False)
        self.key = nn.Linear(inputs, width, bias=False)
        self.value = nn.Linear(inputs, width, bias=False)

    def forward(self, y: Tensor, tokens: Tensor) -> Tensor:
        """What y sees in each head, the mean over groups: (B, width)."""
        size = self.query.out_features // self.heads
        asked = self.query(y).reshape(-1, self.heads, 1, size) * size**-0.5
        asked = asked @ self.key.weight.reshape(self.heads, size, -1)  # (B, heads, 1, w)
        asked = asked.transpose(1, 2)  # (B, 1, heads, w): the same for every group
        share = (asked @ tokens.transpose(2, 3)).softmax(dim=3)  # (B, G, heads, n)
        seen = share @ tokens  # (B, G, heads, w)
        if int(seen.shape[1]) > 1:
            seen = seen.mean(dim=1, keepdim=True)
        by_head = self.value.weight.reshape(self.heads, size, -1).transpose(1, 2)
        return cast(Tensor, (seen.transpose(1, 2) @ by_head).flatten(1))


class ClassAttention(nn.Module):
    """SANF-AD's: y and its image's patch tokens, all seen by y; from w to 2 w channels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = SingleQuery(width, width, heads)
        self.out = nn.Linear(width, 2 * width)

    def forward(self, y: Tensor, tokens: Tensor) -> Tensor:
        """(B, 2 w) of a class token's half y (B, w) and patch tokens' halves (B, 1, n, w)."""
        memory = torch.cat((y[:, None, None], tokens), dim=2)
        return cast(Tensor, self.out(self.attend(y, memory)))


class HiLo(nn.Module):
    """FOAD-MFFF's: half the heads look inside each window, half at the windows' means.

    The first half sees high frequencies, what differs within a window, the mean taken over all
    windows; the second low frequencies. From w to 2 w channels; y itself is not looked at.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        half, rest = heads // 2, heads - heads // 2
        size = width // heads
        self.low = SingleQuery(width, half * size, half)
        self.low_out = nn.Linear(half * size, 2 * half * size)
        self.high = SingleQuery(width, rest * size, rest)
        self.high_out = nn.Linear(rest * size, 2 * rest * size)

    def forward(self, y: Tensor, tokens: Tensor) -> Tensor:
        """(B, 2 w) of y (B, w) and tokens in windows (B, G, n, w)."""
        means = _mean_token(tokens).transpose(1, 2)  # (B, 1, G, w)
        high = self.high_out(self.high(y, tokens))
        return torch.cat((high, self.low_out(self.low(y, means))), dim=1)


def _mean_token(tokens: Tensor) -> Tensor:
    """Each window's mean, (B, G, 1, w), as a product: engines sum it in one order then."""
    count = int(tokens.shape[2])
    return torch.full((1, count), 1 / count, dtype=tokens.dtype, device=tokens.device) @ tokens
