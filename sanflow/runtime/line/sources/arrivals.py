"""When a file in a folder is complete: the kernel says so, or it has not changed for a while.

That a file was created says nothing: whoever opens it then reads half of it. Which save of a file
is meant is told by its state, so that a file closed twice is one part, one that is saved again
under the same name is another, and one that was renamed is the same.
"""

from __future__ import annotations

import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

REMEMBERED = 10_000
"""Files whose last state is kept."""


class State(NamedTuple):
    """What tells one save of a file from the next."""

    device: int
    inode: int
    changed: int
    modified: int
    size: int


class Arrival(NamedTuple):
    """A save of a file that is complete."""

    path: Path
    complete: float | None
    """Monotonic seconds; None if it was there before anybody looked."""
    state: State | None
    """None if it was gone again at once."""
    renamed: Path | None = None
    """What it was called before."""


class Watch(Protocol):
    """Tells what arrives; both ways of watching do."""

    def take(self, timeout: float) -> list[Arrival]:
        """What arrived, after `timeout` seconds at most."""

    def close(self) -> None:
        """Watch no more."""


def state_of(path: Path) -> State | None:
    """The state of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return State(found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)


def listed(folder: Path, wanted: Callable[[str], bool]) -> dict[Path, State]:
    """The files of a folder by their path; OSError if it cannot be listed."""
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if wanted(entry.name)]
    return {path: state for path in paths if (state := state_of(path)) is not None}


class Events:
    """By inotify: closed after writing, or moved to its name. Linux, and files written here."""

    def __init__(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        """OSError if the folder cannot be watched."""
        if not sys.platform.startswith("linux"):
            raise OSError(0, "only Linux says when a file was closed")
        from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEventHandler
        from watchdog.observers.inotify import InotifyObserver

        self._news: SimpleQueue[Arrival] = SimpleQueue()
        self._last: OrderedDict[Path, State] = OrderedDict()
        news = self._news

        class Handler(FileSystemEventHandler):
            def on_closed(self, event: Any) -> None:
                hear(_path(event.src_path), None)

            def on_moved(self, event: Any) -> None:
                if event.dest_path:
                    hear(_path(event.dest_path), _path(event.src_path) if event.src_path else None)

        def hear(path: Path, before: Path | None) -> None:
            if path.parent == folder and wanted(path.name):
                news.put(Arrival(path, time.monotonic(), state_of(path), before))

        # Without `full` a file that is moved in from elsewhere looks like one just created.
        self._observer = InotifyObserver(generate_full_events=True)
        kinds = [FileClosedEvent, FileMovedEvent]
        self._observer.schedule(Handler(), str(folder), event_filter=kinds)
        self._observer.start()

    def take(self, timeout: float) -> list[Arrival]:
        """What arrived, after `timeout` seconds at most."""
        if not all(thread.is_alive() for thread in (self._observer, *self._observer.emitters)):
            raise OSError(0, "the kernel's events have ended")
        found = []
        try:
            found.append(
                self._news.get(timeout=timeout) if timeout > 0 else self._news.get_nowait()
            )
            while True:
                found.append(self._news.get_nowait())
        except Empty:
            return [arrival for arrival in found if not self._known(arrival)]

    def close(self) -> None:
        """Watch no more."""
        self._observer.stop()
        self._observer.join(1.0)

    def _known(self, arrival: Arrival) -> bool:
        """Whether this very save was told already."""
        state, path = arrival.state, arrival.path
        if state is None:
            return False
        known = self._last.get(path) == state
        self._last[path] = state
        self._last.move_to_end(path)
        while len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return known


class Looks:
    """By listing again and again: what has the same size and time for `stable` seconds."""

    def __init__(
        self, folder: Path, wanted: Callable[[str], bool], interval: float, stable: float
    ) -> None:
        """OSError if the folder cannot be listed."""
        self._folder, self._wanted = folder, wanted
        self._interval, self._stable = interval, stable
        self._told: dict[Path, tuple[int, int]] = {}
        self._changing: dict[Path, tuple[State, float]] = {}

    def skip(self, path: Path, state: State) -> None:
        """This save is known already."""
        self._told[path] = state.modified, state.size

    def take(self, timeout: float) -> list[Arrival]:
        """What arrived, after `timeout` seconds at most."""
        end = time.monotonic() + timeout
        while not (found := self._look()) and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._interval))
        return found

    def close(self) -> None:
        """Nothing is held."""

    def _look(self) -> list[Arrival]:
        there, now = listed(self._folder, self._wanted), time.monotonic()
        self._told = {path: told for path, told in self._told.items() if path in there}
        self._changing = {p: c for p, c in self._changing.items() if p in there}
        ready = []
        for path, state in there.items():
            if self._told.get(path) == (state.modified, state.size):
                continue
            before, since = self._changing.get(path, (None, now))
            if before is None or (before.modified, before.size) != (state.modified, state.size):
                self._changing[path] = state, now
            elif now - since >= self._stable:
                del self._changing[path]
                self.skip(path, state)
                ready.append(Arrival(path, now, state))
        return sorted(ready, key=lambda arrival: (arrival.state or (), arrival.path))


def _path(name: str | bytes) -> Path:
    return Path(os.fsdecode(name))
