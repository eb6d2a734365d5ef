"""What `auto` means on a device, and that only products are rounded."""

from __future__ import annotations

import pytest
import torch

from sanflow.errors import ConfigError
from sanflow.training.precision import autocast, resolve

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx2": True}, "fp32"),
        ({"neon": True}, "fp32"),
    ],
)
def test_auto_takes_bf16_only_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve("auto", CPU) == expected


def test_an_explicit_choice_stands() -> None:
    assert resolve("fp32", CPU) == "fp32"
    assert resolve("bf16", CPU) == "bf16"
    assert resolve("fp16", torch.device("cuda")) == "fp16"
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        resolve("fp16", CPU)


def test_autocast_rounds_only_when_asked() -> None:
    a = torch.randn(4, 4)
    with autocast("fp32", CPU):
        assert (a @ a).dtype == torch.float32
    with autocast("bf16", CPU):
        assert (a @ a).dtype == torch.bfloat16
        assert torch.exp(a).dtype == torch.float32
