"""A folder as a camera: whoever saves a picture there presents a part.

    folder:/data/in                     each picture from the moment it is complete
    folder:/mnt/share?watch=poll        the same where the writer is another computer
    folder:parts/test/good?watch=no     those that are there, by name, and then the end

Pictures wait on the disk, not in the queue, but their deadline runs from the moment they were
complete. Nothing is skipped: a file that cannot be read, was saved over or is gone, is a reject.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .... import imaging
from ....errors import ImageError
from ..frame import Frame
from ..source import EndOfSource, Source, SourceError
from . import require
from .arrivals import Arrival, Events, Looks, State, Watch, listed, state_of
from .uri import Address, options, parse

_log = logging.getLogger(__name__)

RENAMED = 0.2
"""Seconds that a file which is gone has to turn up under another name."""


@dataclass(frozen=True)
class Folder:
    """What a folder: URI can ask for."""

    watch: Literal["events", "poll", "no"] = "events"
    """`events` come from this computer's kernel, which does not see what others write to a network
    share: there, `poll`."""
    done: str = ""
    """A folder into which pictures are moved when they were read; without it they stay."""
    interval: float = 0.1
    """Seconds between two looks, with `poll`."""
    stable: float = 0.5
    """Seconds for which size and time of a file must not change, with `poll`."""

    def __post_init__(self) -> None:
        if not 0 < self.interval <= 60 or not 0 < self.stable <= 60:
            raise ValueError("interval and stable are seconds, more than 0 and at most 60")


class FolderSource(Source):
    """See the module."""

    live = False

    def __init__(self, address: Address, asked: Folder) -> None:
        super().__init__(address.name)
        self._asked, self._folder = asked, Path(address.place).absolute()
        self._done = Path(asked.done).absolute() if asked.done else None
        self._waiting: deque[Arrival] = deque()
        self._read: dict[Path, State | None] = {}
        """The last file that was read, by its name: it may be renamed afterwards."""
        self._watch: Watch | None = None
        self._identity = 0
        self._count = 0

    def open(self) -> None:
        """Begin to watch, then take what is there."""
        if not self._folder.is_dir():
            raise SourceError(f"{self.name}: there is no folder {self._folder}; check the path")
        try:
            self._identity = self._folder.stat().st_ino
            if self._done is not None:
                self._done.mkdir(parents=True, exist_ok=True)
                if self._done.samefile(self._folder):
                    raise SourceError(f"{self.name}: done= must be another folder")
            self._begin()
        except OSError as error:
            raise SourceError(
                f"{self.name}: cannot be watched: {error.strerror}; check the path and its rights"
                + (", or use watch=poll" if self._asked.watch == "events" else "")
            ) from None

    def read(self, timeout: float) -> Frame | None:
        """The next picture, in the order in which they were complete."""
        end = time.monotonic() + timeout
        while True:
            self._hear(0.0 if self._waiting else max(0.0, end - time.monotonic()))
            if self._waiting:
                arrival = self._waiting[0]
                picture = None if arrival.state is None else _picture(arrival.path)
                if picture is None and self._renamed(arrival):
                    continue
                return self._frame(self._waiting.popleft(), picture)
            if self._watch is None:
                raise EndOfSource
            if time.monotonic() >= end:
                return None

    def close(self) -> None:
        """Watch no more."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        self._waiting.clear()

    def _begin(self) -> None:
        if self._asked.watch == "events":
            self._watch = Events(self._folder, _is_picture)
        there = listed(self._folder, _is_picture)
        by_time = sorted(there, key=lambda path: (there[path].modified, path))
        if self._asked.watch == "poll":
            self._watch = looks = Looks(
                self._folder, _is_picture, self._asked.interval, self._asked.stable
            )
            if self._done is None:
                for path, state in there.items():
                    looks.skip(path, state)
        elif self._asked.watch == "events" and self._done is not None:
            self._waiting.extend(Arrival(path, None, there[path]) for path in by_time)
        elif self._asked.watch == "no":
            if not there:
                suffixes = ", ".join(imaging.IMAGE_SUFFIXES)
                raise SourceError(f"{self.name}: no pictures there; known are {suffixes}")
            self._waiting.extend(Arrival(path, None, there[path]) for path in sorted(there))

    def _hear(self, timeout: float) -> None:
        if self._watch is None:
            return
        try:
            if self._folder.stat().st_ino != self._identity:
                raise SourceError(f"{self.name}: the folder {self._folder} was replaced")
            arrivals = self._watch.take(timeout)
        except OSError as error:
            raise SourceError(f"{self.name}: can no longer be watched: {error.strerror}") from None
        for arrival in arrivals:
            self._line_up(arrival)

    def _line_up(self, arrival: Arrival) -> None:
        if arrival.renamed is not None and _same(self._read.get(arrival.renamed), arrival.state):
            self._read = {arrival.path: arrival.state}
            return
        for place, other in enumerate(self._waiting):
            if other.path == arrival.renamed:  # it keeps its turn
                self._waiting[place] = arrival._replace(complete=other.complete)
                return
            if other.path == arrival.path:
                if other.complete is None and other.state == arrival.state:
                    return
                self._waiting[place] = other._replace(state=None)
        self._waiting.append(arrival)

    def _renamed(self, arrival: Arrival) -> bool:
        """Whether the kernel tells, a moment after the file is gone, what it is called now."""
        end = time.monotonic() + RENAMED
        while (
            self._waiting[0] is arrival
            and isinstance(self._watch, Events)
            and state_of(arrival.path) is None
            and (left := end - time.monotonic()) > 0
        ):
            self._hear(left)
        return self._waiting[0] is not arrival

    def _frame(self, arrival: Arrival, picture: NDArray[np.uint8] | ImageError | None) -> Frame:
        path = arrival.path
        self._count += 1
        common: dict[str, Any] = {
            "triggered": arrival.complete,
            "name": path.name,
            "sequence": self._count,
        }
        if picture is None:
            detail = f"{path} was removed, or saved over, before it was read"
            return Frame(None, "no_image", time.monotonic(), detail=detail, **common)
        self._read = {path: arrival.state}
        received = time.monotonic()
        if self._done is not None:
            self._put_away(path, self._done)
        if isinstance(picture, ImageError):
            return Frame(None, "incomplete", received, detail=str(picture), **common)
        return Frame(picture, "ok", received, **common)

    def _put_away(self, path: Path, folder: Path) -> None:
        target = folder / path.name
        if target.exists():
            target = folder / f"{path.stem}-{time.time_ns()}{path.suffix}"
        try:
            shutil.move(path, target)
        except OSError as error:  # it has its verdict all the same
            _log.warning(
                "%s: %s cannot be moved to %s: %s", self.name, path, folder, error.strerror
            )


def folder_source(uri: str) -> FolderSource:
    """The source that a folder: URI describes; ConfigError says what is wrong with it."""
    address = parse(uri)
    asked = options(Folder, address)
    if not address.place:
        raise SourceError("folder: which one? Give folder:PATH")
    if asked.watch == "events":
        require("folder", "watchdog", extra="folder", otherwise="use watch=poll or watch=no")
    return FolderSource(address, asked)


def _picture(path: Path) -> NDArray[np.uint8] | ImageError | None:
    """The picture, or why it is none; None if there is no such file."""
    try:
        return imaging.read(path)
    except ImageError as error:
        return None if state_of(path) is None else error


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(imaging.IMAGE_SUFFIXES)


def _same(before: State | None, after: State | None) -> bool:
    """Whether a file was only renamed, which changes its time of change."""
    if before is None or after is None:
        return False
    return before._replace(changed=0) == after._replace(changed=0)
