"""The heap while an engine loads: what it frees on the way goes back to the system at once.

An engine parses a graph, transforms it and packs its weights, and frees nearly as much as it keeps.
The C library keeps such blocks for later, in a heap that hardly shrinks: a second copy of the
weights that nobody uses. With glibc, blocks get pages of their own meanwhile. Afterwards the heap
is as it would have become by itself, so a frame's pictures cost no new pages.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""
_SMALL = 128 * 2**10
_LARGEST = 32 * 2**20
"""glibc's first threshold, and the one that it goes up to by itself; it trims at twice that."""


@contextmanager
def lean_heap() -> Iterator[None]:
    """While this is entered, freed blocks leave the process; nothing happens without glibc.

    Nor where the user has set the heap.
    """
    heap = None if {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys() else _glibc()
    if heap is None:
        yield
        return
    heap.mallopt(_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        heap.mallopt(_MMAP_THRESHOLD, _LARGEST)
        heap.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        heap.malloc_trim(0)


def _glibc() -> Any:
    """The C library, if it is glibc."""
    try:
        return ctypes.CDLL(None) if os.confstr("CS_GNU_LIBC_VERSION") else None
    except (AttributeError, ValueError, OSError):  # other systems, other C libraries
        return None
