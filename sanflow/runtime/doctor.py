"""What this machine can run, what it cannot, and what would change that. Never a traceback.

Packages are imported in child processes: an engine built for another processor ends its child with
a signal, not the doctor. With a bundle, every engine that reads it loads it and replays its golden
samples, which is the whole truth about whether this machine can judge with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .. import __version__, schema
from ..bundle import Bundle
from ..errors import EngineError, ParityError, SanflowError
from .machine import Machine, child_environment, default_threads, describe
from .parity import replay_goldens
from .registry import ENGINES, available_engines, install, missing, open_engine
from .tuned import location
from .tuned import read as read_tuned

PROBE_SECONDS = 120
"""Importing torch from a cold disk takes long; a package that takes longer is reported."""

Status = Literal["ok", "missing", "failed"]

_PROBES = {
    "onnxruntime": "import onnxruntime as m; "
    "print(m.__version__, 'with', ', '.join(m.get_available_providers()))",
    "openvino": "import openvino as m; "
    "print(m.__version__.split('-')[0], 'on', ', '.join(m.Core().available_devices))",
    "tensorrt": "import tensorrt as m; print(m.__version__)",
    "tensorrt_rtx": "import tensorrt_rtx as m; print(m.__version__)",
    "torch": "import torch as m; import torchvision, safetensors, scipy, sklearn, onnx; "
    "g = [m.cuda.get_device_name(i) for i in range(m.cuda.device_count())]; "
    "print(m.__version__, 'on', ', '.join(g) or 'the processor (no CUDA device)')",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    group: Literal["machine", "engine", "training", "bundle"]
    name: str
    status: Status
    """`missing` is no fault as long as something else does the work."""
    detail: str
    fix: str = ""
    """What to do about it; empty where nothing is wrong, or `detail` says it."""
    code: int = 0
    """The exit code of the error that was met."""


@dataclass(frozen=True)
class DoctorReport:
    """Everything that was looked at, and the machine."""

    sanflow: str
    machine: Machine
    checks: tuple[Check, ...]
    engines: tuple[str, ...]
    """The engines that work here."""
    exit_code: int
    """0 if this machine can judge parts (with the bundle, if one was given); else that of the
    error which stands in the way."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(schema.dump(self))

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Group, name, status, and detail with what to do, for a table."""
        return [
            (c.group, c.name, c.status, "; ".join(filter(None, (c.detail, c.fix))))
            for c in self.checks
        ]


def doctor(
    bundle: str | os.PathLike[str] | None = None,
    *,
    engine: str | None = None,
    threads: int | None = None,
    progress: Callable[[Check], None] | None = None,
) -> DoctorReport:
    """Look at everything; whatever is wrong is in the report, nothing is raised.

    `engine` limits the bundle's check to one engine; `progress` is called with each check.
    """
    machine = describe()
    checks: list[Check] = []
    for check in _examine(machine, bundle, engine, threads):
        checks.append(check)
        if progress is not None:
            progress(check)
    engines = tuple(c.name for c in checks if c.group == "engine" and c.status == "ok")
    codes = [check.code for check in checks if check.code]
    # Whoever trains only needs no engine, but the doctor is asked about judging.
    code = codes[0] if codes else 0 if engines else EngineError.exit_code
    return DoctorReport(__version__, machine, tuple(checks), engines, code)


def _examine(
    machine: Machine,
    bundle: str | os.PathLike[str] | None,
    engine: str | None,
    threads: int | None,
) -> Iterator[Check]:
    yield from _machine(machine)
    yield from (_engine(name) for name in ENGINES)
    yield _training()
    if bundle is not None:
        yield from _bundle(bundle, engine, threads)


def _machine(machine: Machine) -> Iterator[Check]:
    yield Check("machine", "system", "ok", f"{machine.system}, Python {machine.python}")
    cores = f", {machine.cores} cores" if machine.cores else ""
    yield Check(
        "machine",
        "processor",
        "ok",
        f"{machine.cpu}{cores}, {machine.cpus} usable, {default_threads()} threads by default",
    )
    yield Check("machine", "instructions", "ok", ", ".join(machine.isa) or "not listed here")
    memory = f"{machine.memory_mib} MiB" if machine.memory_mib else "not known here"
    yield Check("machine", "memory", "ok", memory)


def _engine(name: str) -> Check:
    if why := missing(name):
        detail, _, fix = why.partition(": ") if why.startswith("not installed") else (why, "", "")
        return Check("engine", name, "missing", detail, fix)
    return _probe("engine", name, ENGINES[name].package, name)


def _training() -> Check:
    """Only a PC that trains needs it."""
    return _probe("training", "PyTorch", "torch", "train")


def _probe(group: Literal["engine", "training"], name: str, package: str, extra: str) -> Check:
    """Import a package in a child process and print its version."""
    command = [sys.executable, "-c", _PROBES[package]]
    try:
        done = subprocess.run(
            command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Check(group, name, "failed", f"not imported within {PROBE_SECONDS} s", "try again")
    except OSError as error:
        return Check(group, name, "failed", f"no child process can be started: {error}")
    if done.returncode == 0:
        return Check(group, name, "ok", done.stdout.strip().splitlines()[-1])
    if done.returncode < 0:
        detail = (
            f"importing it ends the process with {_signal(-done.returncode)}: it may be built "
            "for another processor"
        )
        return Check(group, name, "failed", detail, f"{install(extra)} --force-reinstall")
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if last.startswith("ModuleNotFoundError"):
        absent = last.partition(": ")[2]
        return Check(group, name, "missing", absent, install(extra))
    return Check(group, name, "failed", last, f"{install(extra)} --force-reinstall")


def _bundle(
    path: str | os.PathLike[str], engine: str | None, threads: int | None
) -> Iterator[Check]:
    try:
        bundle = Bundle.open(path)
    except Exception as error:
        yield _failure("open", error)
        return
    manifest = bundle.manifest
    size = f"{manifest.pixels.height} x {manifest.pixels.width}"
    what = f"{manifest.target}, {manifest.model.extractor}, {size}, digest {manifest.digest[:12]}"
    yield Check("bundle", "open", "ok", what)
    yield _tuning(bundle)
    # Without any engine, opening says which one to install.
    for name in (engine,) if engine else available_engines(manifest.target) or (None,):
        yield _replay(bundle, name, threads)


def _tuning(bundle: Bundle) -> Check:
    found, problem = read_tuned(bundle)
    fix = "sanflow bench BUNDLE --tune"
    if found is not None:
        gain = f"{found.ratio:.2f} times as fast as the default ({found.goal})"
        return Check("bundle", "tuning", "ok", f"{found.setting}; {gain}")
    if problem:
        return Check("bundle", "tuning", "failed", f"{location(bundle)}: {problem}", fix)
    return Check("bundle", "tuning", "missing", "engine and threads at their defaults", fix)


def _replay(bundle: Bundle, name: str | None, threads: int | None) -> Check:
    begin = time.perf_counter()
    try:
        with open_engine(bundle, name, threads) as engine:
            opened = time.perf_counter()
            found = replay_goldens(engine, bundle)
    except Exception as error:
        return _failure(name or "engine", error)
    done = time.perf_counter()
    if not found.passed:
        failures = f"golden samples: {'; '.join(found.failures)}"
        fix = f"judge no parts with {found.engine} here; update it, or export the run again"
        return Check("bundle", found.engine, "failed", failures, fix, ParityError.exit_code)
    return Check(
        "bundle",
        found.engine,
        "ok",
        f"loaded in {opened - begin:.2f} s, {found.images} golden samples in "
        f"{done - opened:.2f} s, largest score error {found.score_relative.max:.1e}, "
        f"{len(found.flips)} flips",
    )


def _failure(name: str, error: Exception) -> Check:
    if isinstance(error, SanflowError):
        return Check("bundle", name, "failed", str(error), code=error.exit_code)
    detail = f"unexpected {type(error).__name__}: {error}"
    return Check("bundle", name, "failed", detail, code=SanflowError.exit_code)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
