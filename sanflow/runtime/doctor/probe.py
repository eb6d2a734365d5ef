"""Asking a child process, so that whatever a package does to it, the doctor goes on."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from typing import Literal

from ..machine import child_environment

SECONDS = 120
"""Importing torch from a cold disk takes long; a package that takes longer is reported."""


@dataclass(frozen=True)
class Answer:
    """What a child said last, and how it ended."""

    kind: Literal["ok", "absent", "failed", "slow", "killed"]
    """`absent`: a module was not found; `killed`: a signal ended the child."""
    text: str


def ask(*command: str) -> Answer:
    """The last line that a Python child prints; its last line of errors if it fails."""
    try:
        done = subprocess.run(
            command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Answer("slow", f"no answer within {SECONDS} s")
    except OSError as error:
        return Answer("failed", f"no child process can be started: {error}")
    if done.returncode == 0:
        return Answer("ok", _last(done.stdout, "it said nothing"))
    if done.returncode < 0:
        return Answer("killed", f"ended by {_signal(-done.returncode)}")
    last = _last(done.stderr, f"exit code {done.returncode}")
    kind, _, rest = last.partition(": ")
    return Answer("absent", rest) if kind == "ModuleNotFoundError" else Answer("failed", last)


def _last(text: str, otherwise: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else otherwise


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
