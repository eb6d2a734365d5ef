"""Processor and memory, the engines, and PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import Literal

from ..machine import Machine, child_code, default_threads
from ..registry import ENGINES, install, missing
from ..trt.api import MODULES
from .check import Check
from .gpu import LOOK
from .jetson import jetson
from .probe import Answer, ask

_CODE = {
    "onnxruntime": "import onnxruntime as m; "
    "print(m.__version__, 'with', ', '.join(m.get_available_providers()))",
    # sanflow first: it turns off what reports every import of openvino.
    "openvino": "import sanflow, openvino as m; "
    "print(m.__version__.split('-')[0], 'on', ', '.join(m.Core().available_devices))",
    "torch": "import torch as m; import torchvision, safetensors, scipy, sklearn, onnx; "
    "g = [m.cuda.get_device_name(i) for i in range(m.cuda.device_count())]; "
    "print(m.__version__, 'on', ', '.join(g) or 'the processor (no CUDA device)')",
}


def machine(found: Machine) -> Iterator[Check]:
    """What this machine is."""
    yield Check("machine", "system", "ok", f"{found.system}, Python {found.python}")
    cores = f", {found.cores} cores" if found.cores else ""
    yield Check(
        "machine",
        "processor",
        "ok",
        f"{found.cpu}{cores}, {found.cpus} usable, {default_threads()} threads by default",
    )
    yield Check("machine", "instructions", "ok", ", ".join(found.isa) or "not listed here")
    memory = f"{found.memory_mib} MiB" if found.memory_mib else "not known here"
    yield Check("machine", "memory", "ok", memory)


def engines() -> Iterator[Check]:
    """Each engine, and whether it can be imported; on a GPU also whether one answers."""
    for name, kind in ENGINES.items():
        if why := missing(name):
            yield Check("engine", name, "missing", why)
        elif name in MODULES:
            yield _tensorrt(name)
        else:
            yield _package("engine", name, ask(*child_code(_CODE[kind.package])), name)


def training() -> Check:
    """Only a PC that trains needs it."""
    return _package("training", "PyTorch", ask(*child_code(_CODE["torch"])), "train")


def _package(group: Literal["engine", "training"], name: str, answer: Answer, extra: str) -> Check:
    if answer.kind == "ok":
        return Check(group, name, "ok", answer.text)
    if answer.kind == "absent":
        return Check(group, name, "missing", answer.text, install(extra))
    if answer.kind == "slow":
        return Check(group, name, "failed", answer.text, "try again")
    again = f"{install(extra)} --force-reinstall"
    if answer.kind == "killed":
        detail = f"importing it: {answer.text}; it may be built for another processor"
        return Check(group, name, "failed", detail, again)
    return Check(group, name, "failed", answer.text, again)


def _tensorrt(name: str) -> Check:
    answer = ask(*LOOK, "tensorrt", name)
    if answer.kind != "ok":
        return Check("engine", name, "failed", answer.text)  # which says what to do
    seen = json.loads(answer.text)
    place = PurePath(seen["path"])
    origin = "the system's" if "dist-packages" in place.parts else "installed by pip"
    detail = f"{seen['version']}, {origin}, in {place}"
    return Check("engine", name, "ok", detail, _misfit(name, seen["version"]))


def _misfit(name: str, version: str) -> str:
    """What to know where a Jetson has another TensorRT than its JetPack brings."""
    board = jetson()
    if name != "tensorrt" or board is None or board.release is None:
        return ""
    own = board.release.tensorrt
    if version == own or version.startswith(f"{own}."):
        return ""
    return (
        f"JetPack {board.release.jetpack} brings TensorRT {own}; another one may lack code for "
        "this GPU, or fail with its driver"
    )
