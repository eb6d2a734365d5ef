"""Mixed precision: which arithmetic the matrix products use, and where that gains.

Only convolutions are rounded: couplings, likelihoods and the loss compute in float32 (the model
casts back after each product), and so do the optimiser and the weights.
"""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]


def resolve(asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """The precision to train in; `auto` takes bf16 where the device multiplies it faster.

    Raises ConfigError for fp16 on a CPU, where it never gains.
    """
    if asked == "auto":
        return "bf16" if _multiplies_bf16(device) else "fp16" if device.type == "cuda" else "fp32"
    if asked == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"optim.precision: fp16 needs a CUDA device, not {device.type}; give auto, bf16 or fp32"
        )
    return asked


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which the forward pass and the loss are computed."""
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=kind, enabled=precision != "fp32")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
