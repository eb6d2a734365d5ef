"""The real thing, killed at random: the sweep goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sanflow.sweep.folder import CellFolder

pytestmark = pytest.mark.slow
CELLS, MOST_KILLS = 2, 4


def start(toml: Path, out: Path, repository: Path, *words: str) -> subprocess.Popen[bytes]:
    """`sanflow sweep` in a process group of its own."""
    command = [sys.executable, "-m", "sanflow", "sweep", str(toml), "--out", str(out), *words]
    return subprocess.Popen(command, cwd=repository, start_new_session=True)


def results(out: Path) -> dict[str, bytes]:
    """The result of each cell that has one, as it stands on disk."""
    return {p.parent.name: p.read_bytes() for p in out.glob("cells/*/result.json")}


def metrics(out: Path) -> str:
    """The figures of the leaderboard."""
    return (out / "leaderboard.csv").read_text("utf-8")


def test_a_sweep_that_is_killed_at_random_loses_nothing(
    toml: Path, tmp_path: Path, repository: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(toml, whole, repository)
    began = time.monotonic()
    assert undisturbed.wait() == 0
    duration = time.monotonic() - began

    chance, kept = random.Random(0), dict[str, bytes]()
    for _ in range(MOST_KILLS):
        process = start(toml, killed, repository)
        time.sleep(chance.uniform(0.2, 0.9) * duration)
        os.kill(process.pid, signal.SIGKILL)  # of the sweep alone: its cells are orphans now
        process.wait()
        found = results(killed)
        assert found.items() >= kept.items()  # no result is lost, none is made again
        kept = found
        if len(kept) == CELLS:
            break
    assert start(toml, killed, repository).wait() == 0
    assert results(killed).items() >= kept.items()

    assert metrics(killed) == metrics(whole)
    for path in (killed / "cells").iterdir():
        said = (path / "log.txt").read_text("utf-8", errors="replace")
        assert "another process is still working" not in said
        assert said.count(" evaluate") >= 1
        assert 1 <= CellFolder(path).attempts <= MOST_KILLS + 1
        assert not list(path.glob(".*"))


def test_ctrl_c_ends_the_sweep_and_its_cells_with_a_message(
    toml: Path, tmp_path: Path, repository: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sanflow", "sweep", str(toml), "--out", str(out)]
    process = subprocess.Popen(
        command, cwd=repository, start_new_session=True, stderr=subprocess.PIPE
    )
    while not list(out.glob("cells/*/attempts.txt")):
        time.sleep(0.2)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"sweep stopped; what is finished is kept" in said
    assert b"Traceback" not in said
    (line,) = next(out.glob("cells/*/attempts.txt")).read_text().splitlines()
    with pytest.raises(ProcessLookupError):
        os.kill(int(line.split()[-1]), 0)
