"""Results as a station makes them, and waiting for something that another thread does."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sanflow.runtime.line.output import Picture, StationState
from sanflow.runtime.line.result import PartResult

DIGEST = "0123456789abcdef" * 4


def a_result(number: int = 1, **changes: Any) -> PartResult:
    """The result of part number + 1000: every third one is NG by its score."""
    bad = number % 3 == 0
    fields: dict[str, Any] = {
        "result": number,
        "part": number + 1000,
        "verdict": "NG" if bad else "OK",
        "reason": "score" if bad else "",
        "detail": "",
        "score": 2.5 if bad else 0.5,
        "threshold": 1.0,
        "uncertain": False,
        "late": False,
        "source": "sim:noise",
        "sequence": number,
        "image": "",
        "encoder": None,
        "bundle": DIGEST,
        "engine": "onnxruntime 1.0 fp32",
        "created": f"2026-01-31T12:00:{number % 60:02d}.000Z",
        "wait_ms": 0.1,
        "prepare_ms": 0.2,
        "engine_ms": 5.0,
        "total_ms": 6.25,
        "run": "run-1",
    }
    return PartResult(**{**fields, **changes})


def rejected(number: int, reason: str = "deadline", **changes: Any) -> PartResult:
    """A part that nobody judged."""
    fields = {"verdict": "NG", "reason": reason, "score": None, "late": reason == "deadline"}
    return a_result(number, **{**fields, **changes})


def a_picture(seed: int = 0, side: int = 24) -> Picture:
    """Noise, and a map of it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    return Picture(image, rng.normal(size=(side, side)).astype(np.float32))


def a_state(**changes: Any) -> StationState:
    """A station that is ready."""
    fields: dict[str, Any] = {
        "state": "Ready",
        "fault": "",
        "heartbeat": 1,
        "bundle": DIGEST,
        "queue": 0,
    }
    return StationState(**{**fields, **changes})


def eventually(what: Callable[[], object], seconds: float = 20.0) -> Any:
    """What it gives as soon as that is true; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """An authority, and a certificate and key for localhost that it signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    paths = {n: folder / n for n in ("ca.key", "ca.pem", "key.pem", "request", "cert.pem", "ext")}
    paths["ext"].write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    ca, name = "/CN=sanflow test authority", "/CN=localhost"
    new = "req -newkey rsa:2048 -nodes -keyout"
    for command in (
        [*f"{new} {paths['ca.key']} -x509 -days 2 -out {paths['ca.pem']} -subj".split(), ca],
        [*f"{new} {paths['key.pem']} -out {paths['request']} -subj".split(), name],
        f"x509 -req -in {paths['request']} -CA {paths['ca.pem']} -CAkey {paths['ca.key']} "
        f"-CAcreateserial -days 2 -out {paths['cert.pem']} -extfile {paths['ext']}".split(),
    ):
        subprocess.run([openssl, *command], check=True, capture_output=True)
    return paths["ca.pem"], paths["cert.pem"], paths["key.pem"]
