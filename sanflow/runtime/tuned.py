"""The setting that `sanflow bench --tune` found for a bundle on this machine, and where it lies.

It is a cache, private to its user and never part of the bundle: without it everything works, at the
engine's defaults. A file that is not ours, is damaged, or was made on another machine, with another
GPU or with other engines is ignored with a message.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from .. import schema
from ..bundle import Bundle
from ..bundle.manifest import Target
from ..errors import ConfigError
from . import private
from .gpu import first_gpu
from .machine import describe
from .setting import Setting

Goal = Literal["latency", "throughput"]
SCHEMA: Final = "sanflow.tune/1"
FILE = "tune.json"
MAX_BYTES = 2**16
AGAIN = "tune it again with: sanflow bench BUNDLE --tune"

_PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """What a tuning is valid for."""

    cpu: str
    cpus: int
    """Processors this process may use."""
    cores: int | None
    gpu: str
    """The one that a tensorrt bundle is for; empty where none answers, and for other bundles."""
    engines: dict[str, str]
    """Versions of the installed engines."""


@dataclass(frozen=True)
class Tuned:
    """The content of tune.json."""

    schema: Literal["sanflow.tune/1"]
    device: Device
    goal: Goal
    setting: Setting
    ratio: float
    """How many times as good as the default setting it was, by its goal."""


def this_device(target: Target) -> Device:
    """The machine as a tuning of a bundle for this target names it."""
    machine = describe()
    # Other bundles are for the CPU first: no start of theirs has to wait for a GPU's driver.
    gpu = first_gpu() if target == "tensorrt" else ""
    return Device(machine.cpu, machine.cpus, machine.cores, gpu, _versions())


def tuned_setting(bundle: Bundle) -> Setting | None:
    """The stored setting if there is a usable one; one that is not is said and ignored."""
    found, problem = read(bundle)
    if problem:
        _log.warning("%s: %s; %s", location(bundle), problem, AGAIN)
    return None if found is None else found.setting


def read(bundle: Bundle) -> tuple[Tuned | None, str]:
    """The stored tuning, or None and why it is not used (empty if there is none)."""
    path = location(bundle)
    try:
        data = private.read(path, MAX_BYTES)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"ignored: {error.strerror or error}"
    try:
        found = schema.load(Tuned, json.loads(data), FILE)
    except (ValueError, RecursionError, ConfigError) as error:
        return None, f"ignored, not a tuning of this version: {error}"
    if found.device != this_device(bundle.manifest.target):
        return None, "ignored, tuned on another machine, with another GPU or with other engines"
    return found, ""


def write(bundle: Bundle, tuned: Tuned) -> Path:
    """Store a tuning for this user in one atomic step; OSError if that cannot be done."""
    path = location(bundle)
    private.make_folder(path.parent)
    private.write(path, (json.dumps(schema.dump(tuned), indent=1) + "\n").encode())
    return path


def location(bundle: Bundle) -> Path:
    """Where this bundle's tuning lies: below `$XDG_CACHE_HOME`, or ~/.cache."""
    return private.cache_root() / bundle.manifest.digest / FILE


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
