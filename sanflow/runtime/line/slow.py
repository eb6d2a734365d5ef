"""The slow side, a process of its own: archive, brokers, pages, whatever may lag or fail.

    python -m sanflow.runtime.line.slow < assignment.json

Started by the station, which keeps its standard input open: when that ends, so does this process,
after it told its outputs what there was. The assignment comes that way and not as an argument,
because it may hold passwords.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .feed import Feed
from .journal import forget, numbers
from .output import Output, Picture, StationState
from .result import PartResult
from .ring import Board, Ring, life

KEEP = 4
"""Files of the journal that stay when everybody has read them."""
LAST_WORDS = 8.0
"""Seconds for the outputs when the station ends."""
TICK = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """What the station lets this process do."""

    folder: str
    name: str
    """What other machines call the station."""
    board: str
    """The state's file; empty if there is none."""
    ring: str
    """The pictures' file; empty if there is none."""
    slots: int
    height: int
    width: int
    output: list[dict[str, Any]]
    archive: dict[str, Any] | None
    monitor: dict[str, Any] | None


def serve(
    folder: Path,
    outputs: Sequence[Output],
    ring: Ring | None,
    board: Board | None,
    stop: threading.Event,
) -> None:
    """Feed the outputs from the journal until `stop`, then tell them the rest and close them."""

    def picture(result: PartResult) -> Picture | None:
        return None if ring is None else ring.read(result.result, life(result))

    def state() -> StationState | None:
        return None if board is None else board.state()

    feeds = [Feed(output, folder, picture, state) for output in outputs]
    for feed in feeds:
        feed.output.meet(lambda: {feed.output.name: feed.health() for feed in feeds})
    for feed in feeds:
        feed.start()
    while not stop.wait(TICK):
        # Where no file can be removed, those who need no disk go on all the same.
        with contextlib.suppress(OSError):
            _tidy(folder / "journal", feeds)
    for feed in feeds:
        feed.close()
    end = time.monotonic() + LAST_WORDS
    for feed in feeds:
        if not feed.join(max(0.0, end - time.monotonic())):
            _log.warning("%s: did not end in time", feed.output.name)


def _tidy(folder: Path, feeds: Sequence[Feed]) -> None:
    found = numbers(folder)
    if not found or not feeds:
        return
    read_by_all = min(feed.file for feed in feeds)
    forget(folder, min(read_by_all, found[-1] - KEEP + 1))


def main() -> None:
    """Read the assignment, serve it, and end with the station."""
    for name in ("SIGINT", "SIGTERM"):  # meant for the station, which then ends this one
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _step_back()
    logging.basicConfig(format="%(message)s")
    given = Assignment(**json.loads(sys.stdin.readline()))
    folder, ring = Path(given.folder), None
    if given.ring:
        ring = Ring(Path(given.ring), given.slots, given.height, given.width, create=False)
    board = Board(Path(given.board), create=False) if given.board else None
    stop = threading.Event()
    threading.Thread(target=_until_end_of_input, args=(stop,), daemon=True).start()
    serve(folder, make(given, folder), ring, board, stop)
    # An output that hangs in a library must not keep the process.
    os._exit(0)


def _step_back() -> None:
    """Leave the processor to the verdicts, whatever priority the station was started with."""
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if hasattr(os, "nice"):
        # Five behind the usual, or behind a station that stands there itself.
        os.nice(max(5, 5 - os.nice(0)))


def make(given: Assignment, folder: Path) -> list[Output]:
    """The slow outputs of an assignment."""
    from .monitor.options import load_monitor
    from .outputs import Site, load_options, make_outputs

    site = Site(folder, given.name)
    made = make_outputs(load_options(given.output, given.archive), site, fast=False)
    if (monitor := load_monitor(given.monitor)) is not None:
        from .monitor.output import MonitorOutput

        made.append(MonitorOutput(monitor, site))
    return made


def _until_end_of_input(stop: threading.Event) -> None:
    while sys.stdin.readline():
        pass
    stop.set()


if __name__ == "__main__":
    main()
