"""Devices by name: those that people may give, and those that this machine has."""

from __future__ import annotations

import pytest
import torch

from sanflow.errors import InputError
from sanflow.model.device import known_device, usable_device


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", "", "cuda:x"])
def test_a_name_that_is_none_of_the_four(name: str) -> None:
    """PyTorch has devices that cannot compute what is asked here, such as `meta`."""
    with pytest.raises(InputError, match=f"device '{name}' is not one; give auto, cpu, cuda or"):
        known_device(name)


@pytest.mark.parametrize(("cards", "auto"), [(0, "cpu"), (2, "cuda")])
def test_what_a_machine_has(monkeypatch: pytest.MonkeyPatch, cards: int, auto: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    assert usable_device("auto") == torch.device(auto)
    assert usable_device("cpu") == torch.device("cpu")
    assert known_device("cuda:7") == torch.device("cuda:7")
    with pytest.raises(InputError, match=f"device cuda:7: this machine has {cards} CUDA"):
        usable_device("cuda:7")


def test_of_several_processes_each_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_device("cuda", 1) == torch.device("cuda:1")
    assert usable_device("cpu", 1) == torch.device("cpu")
    with pytest.raises(InputError, match="this machine has 2 CUDA"):
        usable_device("cuda:0", 2)
