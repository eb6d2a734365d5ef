"""The NVIDIA side of a machine: Jetson, driver, CUDA packages, and the plans that were built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .. import private
from ..machine import child_command
from ..trt.key import kernel_module
from ..trt.messages import explain
from .check import Check
from .jetson import Jetson, jetson
from .probe import ask

LOOK = tuple(child_command("sanflow.runtime.doctor.look"))
PACKAGES = ("cuda-python", "pycuda")
MIB = 2**20


def checks() -> Iterator[Check]:
    """Everything about the GPU; without a driver, only that there is none."""
    board = jetson()
    if board is not None:
        yield from _board(board)
    driver = ask(*LOOK, "driver")
    if driver.kind != "ok":
        yield Check("gpu", "driver", "missing", explain(driver.text))
        return
    yield Check("gpu", "driver", "ok", f"{json.loads(driver.text)['path']}{_module()}")
    found = [_package(name) for name in PACKAGES]
    yield from found
    if all(check.status == "missing" for check in found):
        yield Check("gpu", "GPU", "missing", "not looked at: no package for CUDA", found[0].fix)
    yield _plans()


def _board(board: Jetson) -> Iterator[Check]:
    known = board.release
    words = f"{board.model}, Jetson Linux {board.l4t}"
    if known is None:
        yield Check("gpu", "Jetson", "ok", f"{words}, of which this version knows no JetPack")
    else:
        words += f" (JetPack {known.jetpack}, TensorRT {known.tensorrt}, Python {known.python})"
        if known.supported:
            yield Check("gpu", "Jetson", "ok", words)
        else:
            fix = "its TensorRT is too old; install JetPack 6.1 or newer"
            yield Check("gpu", "Jetson", "failed", words, fix)
    if board.mode is not None:
        fix = ""
        if board.full_mode is not None:
            fix = "for full speed: sudo nvpmodel -m {} ({})".format(*board.full_mode)
        yield Check("gpu", "power mode", "ok", board.mode, fix)
    if board.clocks_fixed is not None:
        words, fix = "the GPU's clock is fixed", ""
        if not board.clocks_fixed:
            words = "the GPU's clock follows the load"
            fix = "for steady latencies, until the next start: sudo jetson_clocks"
        yield Check("gpu", "clocks", "ok", words, fix)


def _package(name: str) -> Check:
    answer = ask(*LOOK, "gpu", name)
    if answer.kind == "ok":
        return Check("gpu", name, "ok", _described(json.loads(answer.text)))
    if answer.kind == "killed":
        fix = f"install {name} again"
        return Check("gpu", name, "failed", f"{answer.text}: built for another machine?", fix)
    # Its message is one of the known rows already, with what to do.
    absent = "not installed" in answer.text or answer.kind == "absent"
    return Check("gpu", name, "missing" if absent else "failed", answer.text)


def _described(gpu: dict[str, Any]) -> str:
    sm = ".".join(map(str, gpu["sm"]))
    memory = f"{gpu['free'] // MIB} of {gpu['total'] // MIB} MiB free"
    shared = ", shared with the CPU" if gpu["integrated"] else ""
    return f"{gpu['package']}: {gpu['name']}, SM {sm}, {memory}{shared}, CUDA {gpu['driver']}"


def _module() -> str:
    """The kernel module's version, which a desktop's driver tells."""
    found = kernel_module()
    return f", kernel module {found}" if found else ""


def _plans() -> Check:
    """How many plans lie in the cache, and how many are proven."""
    folder = private.cache_root() / "trt"
    plans = proven = size = 0
    for meta in sorted(folder.glob("*/meta.json")):
        try:
            content = json.loads(private.read(meta, MIB))
            size += (meta.parent / "plan").stat().st_size
            proof = content["proof"]
            good = proof is not None and not proof["failures"]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # the next use of it says what is wrong, and builds it again
        plans += 1
        proven += good
    if not plans:
        return Check("gpu", "plans", "missing", f"none in {folder}", "sanflow build BUNDLE")
    detail = f"{plans} in {folder}, {proven} of them proven, {size // MIB} MiB"
    return Check("gpu", "plans", "ok", detail)
