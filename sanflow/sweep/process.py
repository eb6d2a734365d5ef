"""Starting the process of a cell, and what became of it; the same on every machine."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..runtime.machine import child_command
from .folder import LOG, CellFolder

COMMAND = tuple(child_command("sanflow.sweep.worker"))
_GRACE = 15.0
"""Seconds that a process has to end after it was asked to."""


@dataclass(frozen=True)
class Outcome:
    """How the process of a cell ended."""

    folder: str
    error: str | None
    """None if the cell is done."""
    host: str


def run_process(path: str, threads: int, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Run the cell in the folder `path` to its end, or until `stop` says so."""
    folder = CellFolder(Path(path))
    count = str(threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    with (folder.path / LOG).open("ab") as log:
        process = subprocess.Popen(
            [*COMMAND, path],
            stdin=subprocess.PIPE,  # closed by the system when this process ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the sweep, which then asks its cells to end
        )
        try:
            code = _wait(process, stop)
        finally:
            _end(process)
    return Outcome(path, _error(folder, code), platform.node())


def _wait(process: subprocess.Popen[bytes], stop: Callable[[], bool]) -> int:
    while not stop():
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    return _end(process)


def _end(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    return process.wait()


def _error(folder: CellFolder, code: int) -> str | None:
    if folder.result is not None:
        return None
    failure = folder.failure
    if failure is not None:
        return failure.error
    if code < 0:
        error = f"its process was ended by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            error += "; perhaps there was not enough memory"
    else:
        error = f"its process ended with exit code {code}"
    return f"{error}; {folder.path / LOG} holds what it said"
