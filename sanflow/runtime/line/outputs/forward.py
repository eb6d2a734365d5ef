"""Store and forward: what goes to another machine is taken from the archive and ticked off there.

The archive is the record; an output that forwards is a copy of it that may be late. It goes on at
the row behind the last one that was acknowledged, after a lost connection as after a crash: every
result arrives at least once, in order. A receiver knows a repeated one by `run` and `result`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..output import Output, OutputError, Picture
from ..result import PartResult
from .store import Store

Row = tuple[int, PartResult]
"""A result and its id in the archive."""

FIRST_WAIT, LONGEST_WAIT = 0.25, 15.0
"""Seconds between tries while the other end is away."""
GRACE = 3.0
"""Seconds that closing may take to send what waits."""
POLL = 0.02
"""Seconds until the archive is looked at again."""

_log = logging.getLogger(__name__)


class Forwarder(Output):
    """A thread that reads the archive and sends; a subclass says how."""

    batch: int = 100
    """Results that are sent together at most."""

    def __init__(self, name: str, archive: Path | None) -> None:
        super().__init__(name)
        if archive is None:
            raise OutputError(f"{name}: sends from the archive; add a table [archive]")
        self._archive = archive
        self._told: PartResult | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._cursor = 0
        self._delivered = self._lost = 0
        self._error = self._logged = ""

    def open(self) -> None:
        """Begin to send what was not acknowledged yet."""
        self.store = Store(self._archive)
        self._cursor = self.store.forwarded(self.name)
        self._thread = threading.Thread(
            target=self._loop, name=f"sanflow-{self.name.partition(':')[0]}", daemon=True
        )
        self._thread.start()

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """The archive has it, or is about to."""
        self._told = result

    def health(self) -> dict[str, Any]:
        """Results delivered, still waiting, expired before they were sent; the last error."""
        waiting = 0
        if self._thread is not None:
            with contextlib.suppress(OSError):
                waiting = max(0, self.store.ends()[1] - self._cursor)
        return {
            "delivered": self._delivered,
            "waiting": waiting,
            "lost": self._lost,
            "error": self._error,
        }

    def close(self) -> None:
        """Send what can be sent within GRACE seconds; the rest waits in the archive."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(GRACE)
            self._thread = None
            self.store.close()

    @abstractmethod
    def send(self, rows: Sequence[Row]) -> None:
        """Return when all are acknowledged; raise if not: they come again. Soon after `stopping`
        it gives up."""

    @property
    def stopping(self) -> bool:
        """Whether there are only moments left."""
        return self._stopping.is_set()

    def _loop(self) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                # Asked before looking: what is archived meanwhile is found the next time.
                complete = self.stopping and self._archived()
                rows = self._next()
                if rows:
                    self.send(rows)
                elif complete:
                    return
                else:
                    time.sleep(POLL)
            except Exception as error:  # whatever it is, there is a next time
                self._failed(error)
                if self._stopping.wait(wait):
                    return
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            wait = FIRST_WAIT
            if rows:
                self._tick_off(rows)

    def _archived(self) -> bool:
        """Whether the last result that this output was told of is in the archive."""
        return self._told is None or self.store.has(self._told)

    def _next(self) -> list[Row]:
        rows = self.store.after(self._cursor, self.batch)
        if rows:
            # Only results that expired leave a gap between what was sent and what is there.
            self._lost += rows[0][0] - self._cursor - 1
            self._cursor = rows[0][0] - 1
        return rows

    def _tick_off(self, rows: Sequence[Row]) -> None:
        self._cursor = rows[-1][0]
        self._delivered += len(rows)
        self._error = self._logged = ""
        try:
            self.store.forward(self.name, self._cursor)
        except OSError as error:  # a full disk: after a crash they are sent twice
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text != self._logged:
            _log.warning("%s", text if self.name in text else f"{self.name}: {text}")
        self._error = self._logged = text
