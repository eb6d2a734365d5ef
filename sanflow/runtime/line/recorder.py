"""Results on their way out of the real-time process: pictures into the ring, rows to the journal.

Its own thread, so that no disk ever delays a verdict. While the disk takes nothing, rows wait in
memory; beyond `MOST` of them the oldest are lost, and the station says so. The verdicts themselves
have long been given.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from .journal import Journal
from .output import Picture, StationState
from .result import PartResult
from .ring import Board, Ring, life

MOST = 100_000
"""Rows that wait for a disk."""
PICTURES = 8
"""Pictures that wait for the ring; a copy takes less than a millisecond."""
AGAIN = 0.5
"""Seconds until a disk that took nothing is asked again."""
COUNT = 10.0
"""Seconds for which the same number of waiting and lost rows is told: each costs a line."""
SYNC = 1.0
"""Seconds of results that a power cut may cost."""


class Recorder:
    """Takes results from the emitter and returns at once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.ring: Ring | None = None
        """Where pictures go, if there is room for them."""
        self.board: Board | None = None
        """Where the state goes."""
        self._rows: deque[PartResult] = deque()
        self._pictures: deque[tuple[PartResult, Picture]] = deque(maxlen=PICTURES)
        self._changed = threading.Condition(threading.Lock())
        self._until: float | None = None
        """When closing: the moment at which a disk that takes nothing is given up."""
        self.lost = 0
        """Rows that no disk took in time."""
        self.trouble = ""
        """Why rows wait; empty while they do not."""
        self._too_large = False
        """Whether the last picture was: the bundle of another size came after the start."""
        self._told: tuple[str, bool, bool] = "", False, False
        self._counted, self._words = 0.0, ""
        self._thread = threading.Thread(target=self._loop, name="sanflow-recorder", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, result: PartResult, picture: Picture | None) -> None:
        """Keep a result, and its picture if the ring is not behind by too much."""
        with self._changed:
            if len(self._rows) >= MOST:
                self._rows.popleft()
                self.lost += 1
            self._rows.append(result)
            if picture is not None and self.ring is not None:
                self._pictures.append((result, picture))
            self._changed.notify()

    def tell(self, state: StationState) -> None:
        """Let the slow side know of the station's state."""
        if self.board is not None:
            self.board.tell(state)

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return len(self._rows)

    @property
    def unwritten(self) -> int:
        """Rows that are nowhere on a disk; once it is closed they never will be."""
        return self.lost + len(self._rows)

    def problem(self) -> str:
        """In words, what a person should look at; empty if nothing."""
        now, kind = time.monotonic(), (self.trouble, self.lost > 0, self._too_large)
        if kind != self._told or now - self._counted >= COUNT:
            self._told, self._counted, words = kind, now, []
            if self.trouble:
                words.append(f"journal: {self.trouble}; {self.waiting} results wait for it")
            if self.lost:
                words.append(f"{self.lost} results are lost to the slow outputs")
            if self._too_large:
                words.append(
                    "without pictures until the next start: this bundle's are larger than those "
                    "of the bundle it began with"
                )
            self._words = "; ".join(words)
        return self._words

    def close(self, timeout: float = 5.0) -> None:
        """Write what can be written within `timeout` seconds, and end."""
        with self._changed:
            self._until = time.monotonic() + timeout
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _loop(self) -> None:
        synced = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._until is not None, SYNC)
                rows, pictures = list(self._rows), list(self._pictures)
                self._pictures.clear()
                if self._until is not None and not rows:
                    break
            # Pictures first: whoever reads the row finds the picture there.
            for result, picture in pictures:
                if self.ring is not None:
                    self._too_large = not self.ring.write(result.result, life(result), picture)
            if rows and not self._write(rows):
                if self._until is not None and time.monotonic() + AGAIN > self._until:
                    break
                time.sleep(AGAIN)
            elif time.monotonic() - synced >= SYNC:
                synced = time.monotonic()
                self._sync()
        self._sync()
        self._journal.close()

    def _write(self, rows: list[PartResult]) -> bool:
        try:
            self._journal.append(vars(row) for row in rows)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return False
        self.trouble = ""
        with self._changed:
            # Some of them may have been lost for room meanwhile.
            last = rows[-1].result
            while self._rows and self._rows[0].result <= last:
                self._rows.popleft()
        return True

    def _sync(self) -> None:
        try:
            self._journal.sync()
        except OSError as error:
            self.trouble = error.strerror or str(error)
