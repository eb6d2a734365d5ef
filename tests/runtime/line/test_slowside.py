"""The slow process as the station starts it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sanflow.runtime.line import slowside
from sanflow.runtime.line.slowside import MALLOC, SlowSide

from .station_kit import until


def assignment(folder: Path) -> dict[str, Any]:
    names = {"folder": str(folder), "name": "s", "board": "", "ring": ""}
    sizes = {"slots": 0, "height": 0, "width": 0}
    return {**names, **sizes, "output": [], "archive": None, "monitor": None}


def test_nothing_of_its_working_directory_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    slow = SlowSide(assignment(tmp_path), lambda text: None)
    slow.look()
    child = slow._child
    slow.close()
    assert child is not None
    assert child.returncode == 0


def test_that_it_could_not_be_started_is_said_until_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, said = subprocess.Popen, list[str]()

    def no_memory(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(subprocess, "Popen", real)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", no_memory)
    monkeypatch.setattr(slowside, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(slowside, "LONGEST_WAIT", 0.05)
    slow = SlowSide(assignment(tmp_path), said.append)
    slow.look()
    assert "cannot be started: [Errno 12] Cannot allocate memory" in said[0]
    try:
        until(lambda: (slow.look(), said[-1] == "")[1])
    finally:
        slow.close()
    assert len(said) == 2


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("4", "4")])
def test_its_threads_share_one_heap_unless_the_user_says_otherwise(
    given: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MALLOC:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv("MALLOC_ARENA_MAX", given)
    slow = SlowSide(assignment(tmp_path), lambda text: None)
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
