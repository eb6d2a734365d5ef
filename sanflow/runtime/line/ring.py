"""Shared memory between the two processes: the latest pictures, and the station's state.

A result's picture lies in slot `result` modulo the number of slots until a later one takes its
place; whoever comes too late finds that it is gone. Nobody waits for anybody: a reader copies, then
looks whether the slot was written meanwhile. A plain file is mapped, because Python's own shared
memory is removed by the first process that ends.
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

HEAD = 4096
"""Bytes for the station's state, before the first slot."""

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
        size = HEAD + slots * self._stride
        if create:
            path.unlink(missing_ok=True)
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
        try:
            if create:
                _reserve(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        except BaseException:
            if create:
                path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._turn = 0

    def write(self, result: int, run: int, picture: Picture) -> None:
        """Keep the picture of a result of the process life `run`; one too large is not kept."""
        height, width = picture.image.shape[:2]
        begin, area = HEAD + result % self.slots * self._stride, height * width
        if area > self.height * self.width:
            return
        _SLOT.pack_into(self._map, begin, 0, run, 0, 0, 0)
        pixels = begin + _SLOT_HEAD
        if picture.map is not None:
            # The map first: its floats must lie at a multiple of their size.
            heat = self._bytes[pixels : pixels + 4 * area]
            heat.view(np.float32)[:] = picture.map.reshape(-1)
        image = self._bytes[pixels + 4 * area : pixels + 7 * area]
        image[:] = picture.image.reshape(-1)
        _SLOT.pack_into(self._map, begin, result, run, picture.map is not None, height, width)

    def read(self, result: int, run: int) -> Picture | None:
        """The picture of a result, or None if it never was there or is gone."""
        begin = HEAD + result % self.slots * self._stride
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

    def tell(self, state: StationState) -> None:
        """Say what the station says of itself."""
        data = json.dumps(vars(state)).encode()[: HEAD - _STATE.size]
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
        del self._bytes
        self._map.close()
        if remove:
            self.path.unlink(missing_ok=True)


def place(folder: Path) -> Path:
    """Where the ring of a station with this folder lies: in memory, where there is such a place."""
    memory = Path("/dev/shm")
    name = f"sanflow-{folder.stat().st_dev:x}-{folder.stat().st_ino:x}.ring"
    return (memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())) / name


def life(result: PartResult) -> int:
    """The number by which the ring tells one process life from another."""
    return int(result.run[:15] or "0", 16)


def _reserve(descriptor: int, size: int) -> None:
    # A file with holes in a full /dev/shm would end the process with a signal when written to.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
