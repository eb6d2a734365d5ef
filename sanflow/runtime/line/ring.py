"""Shared memory between the two processes: the latest pictures, and the station's state.

A result's picture lies in slot `result` modulo the number of slots until a later one takes its
place; whoever comes too late finds that it is gone. Nobody waits for anybody: a reader copies, then
looks whether the slot was written meanwhile. Plain files are mapped, because Python's own shared
memory is removed by the first process that ends. The state has a small one of its own, which is
there with no room for pictures, too.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .output import Picture, StationState
from .result import PartResult

BOARD = 2**15
"""Bytes for the station's state."""
LONGEST = 1000
"""Characters of each of its texts."""

_STATE = struct.Struct("<QI")
_SLOT = struct.Struct("<QQIII")
_SLOT_HEAD = 64


class Ring:
    """`slots` pictures of up to height x width pixels; one process writes, others read."""

    def __init__(self, path: Path, slots: int, height: int, width: int, *, create: bool) -> None:
        """Map the file, after making it if `create`; OSError if there is no room for it."""
        self.path = path
        self.slots, self.height, self.width = slots, height, width
        self._stride = _SLOT_HEAD + 7 * height * width
        self._stride += -self._stride % 64
        self._map = _mapped(path, slots * self._stride, create)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def write(self, result: int, run: int, picture: Picture) -> bool:
        """Keep the picture of a result of the process life `run`; False if it is too large."""
        height, width = picture.image.shape[:2]
        begin, area = result % self.slots * self._stride, height * width
        if area > self.height * self.width:
            return False
        _SLOT.pack_into(self._map, begin, 0, run, 0, 0, 0)
        pixels = begin + _SLOT_HEAD
        if picture.map is not None:
            # The map first: its floats must lie at a multiple of their size.
            heat = self._bytes[pixels : pixels + 4 * area]
            heat.view(np.float32)[:] = picture.map.reshape(-1)
        image = self._bytes[pixels + 4 * area : pixels + 7 * area]
        image[:] = picture.image.reshape(-1)
        _SLOT.pack_into(self._map, begin, result, run, picture.map is not None, height, width)
        return True

    def read(self, result: int, run: int) -> Picture | None:
        """The picture of a result, or None if it never was there or is gone."""
        begin = result % self.slots * self._stride
        head = _SLOT.unpack_from(self._map, begin)
        if head[:2] != (result, run):
            return None
        pixels, (has_map, height, width) = begin + _SLOT_HEAD, head[2:]
        area = height * width
        heat = None
        if has_map:
            floats = self._bytes[pixels : pixels + 4 * area].view(np.float32)
            heat = floats.reshape(height, width).copy()
        image = self._bytes[pixels + 4 * area : pixels + 7 * area]
        image = image.reshape(height, width, 3).copy()
        if _SLOT.unpack_from(self._map, begin) != head:
            return None
        return Picture(image, heat)

    def close(self, *, remove: bool = False) -> None:
        """Let go; the file is removed by its writer."""
        del self._bytes
        self._map.close()
        if remove:
            self.path.unlink(missing_ok=True)


class Board:
    """What the station says of itself: one process writes, others read."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Map the file, after making it if `create`; OSError if there is no room for it."""
        self.path = path
        self._map = _mapped(path, BOARD, create)
        self._turn = 0

    def tell(self, state: StationState) -> None:
        """Say it; long texts are cut."""
        said = {k: v[:LONGEST] if isinstance(v, str) else v for k, v in vars(state).items()}
        data = json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
        self._turn += 1
        _STATE.pack_into(self._map, 0, 0, 0)
        self._map[_STATE.size : _STATE.size + len(data)] = data
        _STATE.pack_into(self._map, 0, self._turn, len(data))

    def state(self) -> StationState | None:
        """What the station said last; None at its very beginning, or in the middle of a word."""
        head = turn, length = _STATE.unpack_from(self._map, 0)
        data = self._map[_STATE.size : _STATE.size + length]
        if not turn or _STATE.unpack_from(self._map, 0) != head:
            return None
        try:
            return StationState(**json.loads(data))
        except ValueError:
            return None

    def close(self, *, remove: bool = False) -> None:
        """Let go; the file is removed by its writer."""
        self._map.close()
        if remove:
            self.path.unlink(missing_ok=True)


def places(folder: Path, kind: str) -> list[Path]:
    """Where a file of a station with this folder may lie: in memory first, where that exists."""
    name = f"sanflow-{folder.stat().st_dev:x}-{folder.stat().st_ino:x}.{kind}"
    memory = Path("/dev/shm")
    here = [memory] if os.access(memory, os.W_OK) else []
    return [place / name for place in (*here, Path(tempfile.gettempdir()))]


def life(result: PartResult) -> int:
    """The number by which the ring tells one process life from another."""
    return int(result.run[:15] or "0", 16)


def _mapped(path: Path, size: int, create: bool) -> mmap.mmap:
    if create:
        path.unlink(missing_ok=True)
    flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
    try:
        if create:
            _reserve(descriptor, size)
        return mmap.mmap(descriptor, size)
    except BaseException:
        if create:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    # A file with holes in a full /dev/shm would end the process with a signal when written to.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
