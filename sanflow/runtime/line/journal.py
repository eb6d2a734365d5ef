"""The durable queue between verdicts and everything slow: one JSON line per result, in files.

    journal/0001.jsonl  journal/0002.jsonl  ...

Written by one process, followed by others from where each left off. A line is whole or not there:
what a full disk cut short is taken back, and what a power cut tore is skipped by the reader.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROTATE = 16 * 2**20
"""Bytes after which a new file begins."""
MOST = 2**30
"""Bytes that are kept for a reader that does not come back; then it misses the oldest."""
MOST_FILES = 4096
"""However small: a station that fails again and again begins one each time."""

_NAME = re.compile(r"\d{4,}\.jsonl")


@dataclass(frozen=True)
class Position:
    """Where a reader is: the file's number and the bytes of it that are done."""

    file: int = 0
    offset: int = 0


class Journal:
    """The writing end. Each life of a process begins a new file."""

    def __init__(self, folder: Path, rotate: int = ROTATE) -> None:
        self._folder, self._rotate = folder, rotate
        self._descriptor: int | None = None
        self._size = 0

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the rows, all or none of them; OSError if the disk does not take them."""
        data = b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        if self._descriptor is None or self._size > self._rotate:
            self._begin()
        assert self._descriptor is not None
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += written

    def sync(self) -> None:
        """Bring what was written through a power cut."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = max(numbers(self._folder), default=0) + 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        opened = os.open(_path(self._folder, number), flags, 0o644)
        self.close()
        self._descriptor, self._size = opened, 0
        _make_room(self._folder)


class Follower:
    """The reading end: rows from a position on, as they are written."""

    def __init__(self, folder: Path, position: Position = Position()) -> None:
        self._folder = folder
        self.position = position
        """Up to where rows were handed out."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that are there now, in order; `position` moves on as each is asked for."""
        while (found := self._current()) is not None:
            number, followed = found
            with open(_path(self._folder, number), "rb") as file:
                file.seek(self.position.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.position = Position(number, self.position.offset + len(line))
                    try:
                        row = json.loads(line)
                    except ValueError:
                        continue  # a power cut tore it
                    yield row
            if not followed:
                return
            self.position = Position(number + 1, 0)

    def _current(self) -> tuple[int, bool] | None:
        """The file to read: the position's, or the next one that there is; and whether it is whole,
        with another behind it.

        To be asked before reading: what is written once its end was seen may be followed by the
        next file at once.
        """
        there = numbers(self._folder)
        if not there:
            return None
        # The last file always stays: with none as new as the position, the journal began anew.
        found = [n for n in there if n >= self.position.file] or there
        if found[0] != self.position.file:
            self.position = Position(found[0], 0)
        return found[0], len(found) > 1


def numbers(folder: Path) -> list[int]:
    """The numbers of the files, ascending."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name.partition(".")[0]) for name in names if _NAME.fullmatch(name))


def forget(folder: Path, before: int) -> None:
    """Remove the files with a number below `before`: everybody has read them."""
    for number in numbers(folder):
        if number < before:
            _path(folder, number).unlink(missing_ok=True)


def _make_room(folder: Path) -> None:
    """Remove the oldest files beyond what is kept for readers that are away; never the newest."""
    size = 0
    for count, number in enumerate(reversed(numbers(folder))):
        size += _path(folder, number).stat().st_size
        if count and (size > MOST or count >= MOST_FILES):
            forget(folder, number + 1)
            return


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.jsonl"
