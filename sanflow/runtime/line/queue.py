"""The parts that wait for an engine: few, in order, and together with the engine that is next.

Short on purpose: a part that waits behind many others misses its deadline anyway, and its reject
may as well be given at once. The engine is handed out under the same lock as the parts, so that a
swap lies exactly between two of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Part = TypeVar("Part")
Engine = TypeVar("Engine")


class PartQueue(Generic[Part, Engine]):
    """A bounded first-in-first-out queue; every method may be called from any thread."""

    def __init__(self, capacity: int, engine: Engine) -> None:
        self.capacity = capacity
        self._engine = engine
        self._parts: deque[Part] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._last = time.monotonic()

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def engine(self) -> Engine:
        """Who judges the next part."""
        return self._engine

    def put(self, part: Part) -> bool:
        """Append, or say at once that there is no room."""
        with self._changed:
            if self._closed or len(self._parts) >= self.capacity:
                return False
            self._parts.append(part)
            self._changed.notify_all()
            return True

    def wait_for_empty(self, timeout: float) -> bool:
        """Whether nothing waits any more, after `timeout` seconds at most."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._parts, timeout)

    def take(self, most: Callable[[Engine], int], idle: float) -> tuple[list[Part], Engine] | None:
        """As many parts as wait now and as the engine takes at once, and who judges them.

        No parts if nobody took any for `idle` seconds; None once the queue is closed and empty.
        """
        with self._changed:
            while not self._parts:
                left = self._last + idle - time.monotonic()
                if self._closed:
                    return None
                if left <= 0:
                    break
                self._changed.wait(left)
            self._last = time.monotonic()
            taken = [
                self._parts.popleft() for _ in range(min(most(self._engine), len(self._parts)))
            ]
            if taken:
                self._changed.notify_all()
            return taken, self._engine

    def switch(self, engine: Engine) -> Engine:
        """From the next part on this engine judges; returns the one before."""
        with self._changed:
            before, self._engine = self._engine, engine
            return before

    def close(self) -> None:
        """Take no more parts; those that wait are still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
