"""While an engine loads, what is freed leaves the process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from sanflow.runtime import heap
from sanflow.runtime.machine import child_environment

HELD = """
import re, sys
from contextlib import nullcontext
from pathlib import Path
from sanflow.runtime.heap import lean_heap

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before = anonymous()
with lean_heap() if sys.argv[1] == "lean" else nullcontext():
    for _ in range(2):  # the first to be freed tells glibc to keep such blocks
        blocks = [bytearray(300_000) for _ in range(400)]
        kept = blocks[::20]
        del blocks
    print(anonymous() - before)
print(anonymous() - before)
"""
KEPT = 20 * 300_000 / 2**20


def grown(mode: str) -> list[float]:
    """MiB more than before: while it is entered, and after."""
    words = [sys.executable, "-c", HELD, mode]
    environment = child_environment()
    environment.pop("MALLOC_MMAP_THRESHOLD_", None)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


@pytest.mark.skipif(heap._glibc() is None, reason="another C library than glibc")
def test_freed_blocks_leave_the_process() -> None:
    assert grown("as it is")[0] > 5 * KEPT
    assert max(grown("lean")) < 2 * KEPT


class Libc:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def mallopt(self, option: int, value: int) -> None:
        self.calls.append(("mallopt", option, value))

    def malloc_trim(self, pad: int) -> None:
        self.calls.append(("malloc_trim", pad, 0))


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    found = Libc()
    monkeypatch.setattr(heap, "_glibc", lambda: found)
    for name in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_afterwards_large_blocks_are_kept_again_even_after_an_error(libc: Libc) -> None:
    def fail() -> None:
        with heap.lean_heap():
            libc.mallopt(0, len(libc.calls))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert libc.calls == [
        ("mallopt", -3, 128 * 2**10),
        ("mallopt", 0, 1),
        ("mallopt", -3, 32 * 2**20),
        ("mallopt", -1, 64 * 2**20),
        ("malloc_trim", 0, 0),
    ]


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_a_heap_that_the_user_has_set_stays_so(
    libc: Libc, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "65536")
    with heap.lean_heap():
        pass
    assert not libc.calls


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr(os, "confstr", unknown)
    assert heap._glibc() is None
    with heap.lean_heap():
        pass
