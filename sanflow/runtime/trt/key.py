"""What a plan is valid for: any difference here means another plan.

Plans are bound to TensorRT's version, the driver, the GPU model and the flags they were built with;
some of them also load elsewhere and then run slowly or wrongly. A model is more than its name: all
modules of a Jetson family call their GPU alike ("Orin") and have one compute capability, from 4 to
16 multiprocessors, and power modes turn some of these off. The workspace is no part of it: it
follows the free memory, and a plan is as valid with another one.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from typing import Final

from ..machine import text_of
from .api import Api, Product, Recipe
from .cuda import Device

BUILDER: Final = 1
"""Raised whenever this package builds plans differently."""


@dataclass(frozen=True)
class PlanKey:
    """Everything a plan depends on."""

    graph: str
    """sha256 of the ONNX file."""
    precision: str
    product: Product
    version: str
    driver: str
    gpu: str
    sm: str
    multiprocessors: int
    architecture: str
    system: str
    tf32: bool
    level: int
    builder: int = BUILDER

    @property
    def digest(self) -> str:
        """sha256 over all fields: the name of the plan's folder."""
        return _digest(asdict(self))

    @property
    def device(self) -> str:
        """sha256 over all fields but the graph's: graphs share the timings of one device."""
        rest = asdict(self)
        del rest["graph"], rest["precision"]
        return _digest(rest)


def plan_key(graph: str, precision: str, api: Api, device: Device, recipe: Recipe) -> PlanKey:
    """The key on this machine of the graph with this sha256."""
    return PlanKey(
        graph=graph,
        precision=precision,
        product=api.product,
        version=api.version,
        driver=driver_version(device),
        gpu=device.name,
        sm=f"{device.sm[0]}.{device.sm[1]}",
        multiprocessors=device.multiprocessors,
        architecture=platform.machine(),
        system=platform.system(),
        tf32=recipe.tf32,
        level=recipe.level,
    )


def driver_version(device: Device) -> str:
    """CUDA's level, the kernel module's version and L4T's release, as far as they can be read."""
    release = l4t()
    words = [f"CUDA {device.driver}", kernel_module(), release and f"L4T {release}"]
    return ", ".join(word for word in words if word)


def kernel_module() -> str | None:
    """The version of NVIDIA's kernel module, for example 580.65.06; None where it does not tell."""
    # "Kernel Module  580.65.06", or for the open one "Kernel Module for x86_64  580.65.06".
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text_of("/proc/driver/nvidia/version"))
    return found[1] if found else None


def l4t() -> str | None:
    """The release of Jetson Linux, for example 36.4.3; None elsewhere."""
    match = re.search(r"R(\d+).*REVISION:\s*([\d.]+)", text_of("/etc/nv_tegra_release"))
    return f"{match[1]}.{match[2]}" if match else None


def _digest(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
