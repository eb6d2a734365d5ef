"""The slow process as the station starts it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sanflow.runtime.line.slowside import MALLOC, SlowSide

from .test_station import until


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("4", "4")])
def test_its_threads_share_one_heap_unless_the_user_says_otherwise(
    given: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MALLOC:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv("MALLOC_ARENA_MAX", given)
    assignment = {"folder": str(tmp_path), "name": "s", "ring": "", "slots": 0, "height": 0}
    lists = {"width": 0, "output": [], "archive": None, "monitor": None}
    slow = SlowSide({**assignment, **lists}, lambda text: None)
    slow.look()
    try:
        environ = Path(f"/proc/{slow.pid}/environ")
        expected = {f"MALLOC_ARENA_MAX={found}".encode(), b"MALLOC_MMAP_THRESHOLD_=65536"}
        behind = min(19, max(5, os.nice(0) + 5))
        assert slow.pid is not None
        process = slow.pid
        until(lambda: os.getpriority(os.PRIO_PROCESS, process) == behind)
        until(lambda: expected <= set(environ.read_bytes().split(b"\0")))
    finally:
        slow.close()
    assert slow.starts == 1
