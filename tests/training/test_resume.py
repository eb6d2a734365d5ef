"""Killed at any moment and resumed, training ends with the bits of a run that was never stopped."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from sanflow.config import RunConfig
from sanflow.run import MODEL, open_run
from sanflow.training.log import METRICS
from sanflow.training.train import train

# Each child is forked from a clean process that has imported everything once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sanflow.training.train", "torch.utils.tensorboard"])


def child(parts: Path, out: Path, config: RunConfig, reports: Connection) -> None:
    """Train or continue; say so after every step."""
    train(
        parts,
        out,
        config,
        resume=True,
        device="cpu",
        progress=lambda status: reports.send((status.phase, status.done)),
    )


def child_dying_at_write(parts: Path, out: Path, config: RunConfig, writes: Connection) -> None:
    """Train until the given number of files is filled, and die before the last is in its place."""
    left: int = writes.recv()
    fsync = os.fsync

    def die(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = die
    train(parts, out, config, resume=True, device="cpu")


def start(target: Callable[..., None], *given: object) -> tuple[object, Connection]:
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=target, args=(*given, theirs))
    process.start()
    theirs.close()
    return process, ours


def test_killed_while_it_prepares_trains_and_writes(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    whole = train(parts, tmp_path / "whole", config, device="cpu")
    out = tmp_path / "killed"
    kills = 0
    for moment in (("scale", 8), ("train", 2), ("train", 8)):
        process, reports = start(child, parts, out, config)
        try:
            while reports.recv() != moment:
                pass
            process.kill()
            kills += 1
        finally:
            process.join()
        assert process.exitcode == -signal.SIGKILL
    for writes in (1, 4):  # the first checkpoint from here on, and the one after the next file
        process, pipe = start(child_dying_at_write, parts, out, config)
        pipe.send(writes)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    run = train(parts, out, config, resume=True, device="cpu")
    assert kills == 5
    assert run.record.progress.finished
    assert (out / MODEL).read_bytes() == (whole.path / MODEL).read_bytes()
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_killed_twenty_times_at_random(parts: Path, tmp_path: Path, config: RunConfig) -> None:
    whole = train(parts, tmp_path / "whole", config, device="cpu")
    length = 1.5  # seconds of a child's life: about what a whole run takes
    draw = random.Random(0)
    kills, attempt = 0, 0
    while kills < 20:
        attempt += 1
        out = tmp_path / f"killed{attempt}"
        for _ in range(6):
            process, reports = start(child, parts, out, config)
            try:
                reports.recv()  # it is under way
                time.sleep(draw.uniform(0, length))
                process.kill()
            except EOFError:
                pass  # there was nothing left to do
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        run = train(parts, out, config, resume=True, device="cpu")
        assert open_run(out) == run
        assert (out / MODEL).read_bytes() == (whole.path / MODEL).read_bytes()
        epochs = [line.split(",")[0] for line in (out / METRICS).read_text().splitlines()]
        assert epochs == ["epoch", "1", "2", "3", "4"]
