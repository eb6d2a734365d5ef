"""Multiplications and stored values of any state of the inference model, without running it."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..model.config import MethodConfig


def macs(model: nn.Module) -> int:
    """Multiply-accumulates of all convolutions and matrix products for one image.

    The model runs on PyTorch's `meta` device: shapes without values.
    """
    config = cast(MethodConfig, model.config)
    images = torch.empty(1, config.height, config.width, 3, dtype=torch.uint8, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, _meta(model), (images,))
    return int(counter.get_total_flops()) // 2


def stored_values(model: nn.Module) -> int:
    """Parameters and buffers that the model keeps."""
    return sum(t.numel() for t in [*model.parameters(), *model.buffers()])


def _meta(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.to("meta") for name, tensor in tensors}
