"""Where PyTorch computes: the names that people may give, and what this machine has of them."""

from __future__ import annotations

import torch

from ..errors import InputError


def known_device(name: str) -> torch.device:
    """The device of this name, on this machine or another; InputError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not one; give auto, cpu, cuda or cuda:N")
    return device


def usable_device(name: str, index: int | None = None) -> torch.device:
    """The device of this name on this machine, of CUDA devices number `index` if that is given.

    Raises InputError where there is none.
    """
    device = known_device(name)
    if device.type == "cuda":
        device = device if index is None else torch.device("cuda", index)
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(f"device {name}: this machine has {count} CUDA devices")
    return device
