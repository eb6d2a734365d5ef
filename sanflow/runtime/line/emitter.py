"""Verdicts leave here: one thread, in the order of the parts, each by its deadline.

The thread sleeps until the oldest part has its answer or runs out of time. Building the result and
telling the fast outputs is all it does; the journal and everything behind it only get it handed on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial

from .frame import Frame
from .ledger import Entry, Ledger, Outcome
from .output import Picture
from .result import PartResult

Deliver = Callable[[PartResult, Picture | None], None]
Identity = Callable[[], tuple[str, str, float]]
"""Digest of the bundle, name of the engine and threshold of whoever judges at the moment."""

_log = logging.getLogger(__name__)


class Emitter:
    """The ledger behind a lock, and the thread that lets its answers go."""

    def __init__(self, ledger: Ledger, deliver: Deliver, identity: Identity, run: str) -> None:
        """`deliver` is called with each result in the emitter's thread and returns at once;
        `identity` says who was to judge a part that nobody judged."""
        self._ledger = ledger
        self._deliver = deliver
        self._identity = identity
        self._run = run
        self._changed = threading.Condition(threading.Lock())
        self._stopping = False
        self._wakes = -math.inf
        self._tasks: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._loop, name="sanflow-emitter", daemon=True)

    def start(self) -> None:
        """Begin to let verdicts go."""
        self._thread.start()

    def open(
        self, part: int | None, begun: float, frame: Frame | None = None, source: str = ""
    ) -> Entry | None:
        """As Ledger.open; the deadline runs from `begun`."""
        with self._changed:
            entry = self._ledger.open(part, begun, frame, source)
            # Waking the emitter takes the GIL from whoever is to judge the part: only if need be.
            if entry is not None and entry.due < self._wakes:
                self._changed.notify()
            return entry

    def settle(self, entry: Entry, outcome: Outcome) -> bool:
        """As Ledger.settle, now."""
        with self._changed:
            first = self._ledger.settle(entry, outcome, time.monotonic())
            if self._ledger.entries and entry is self._ledger.entries[0]:
                self._changed.notify()
            return first

    @property
    def waiting(self) -> int:
        """Parts without a verdict."""
        return len(self._ledger.entries)

    @property
    def opened(self) -> int:
        """Parts that were promised a verdict."""
        return self._ledger.opened

    @property
    def discarded(self) -> int:
        """Answers that came too late to count."""
        return self._ledger.discarded

    def post(self, task: Callable[[], None]) -> None:
        """Have something short done in the emitter's thread, between two results."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def close(self) -> None:
        """Return when every open part has its verdict: at the last deadline at the latest."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _loop(self) -> None:
        while (work := self._wait()) is not None:
            for task in work:
                try:
                    task()
                except Exception:  # the verdicts behind this one must leave all the same
                    _log.exception("an output failed")

    def _wait(self) -> list[Callable[[], None]] | None:
        with self._changed:
            while True:
                now = time.monotonic()
                self._ledger.expire(now)
                if leaving := self._ledger.take(now):
                    return [partial(self._give, entry, outcome) for entry, outcome in leaving]
                if self._tasks:
                    return [self._tasks.popleft()]
                wakes = self._ledger.wakes()
                if wakes is None and self._stopping:
                    return None
                # With no part open: no later than one that comes the next moment is due.
                self._wakes = now + self._ledger.deadline if wakes is None else wakes
                self._changed.wait(max(0.0, self._wakes - now) + 1e-4)

    def _give(self, entry: Entry, outcome: Outcome) -> None:
        self._deliver(self._result(entry, outcome), outcome.picture)

    def _result(self, entry: Entry, outcome: Outcome) -> PartResult:
        frame, now = entry.frame, time.monotonic()
        created = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        waited = 0.0 if outcome.started is None else outcome.started - entry.begun
        bundle, engine, threshold = outcome.bundle, outcome.engine, outcome.threshold
        if not bundle:
            bundle, engine, threshold = self._identity()
        return PartResult(
            result=entry.ticket,
            part=entry.part,
            verdict=outcome.verdict,
            reason=outcome.reason,
            detail=_text(outcome.detail),
            score=outcome.score,
            threshold=threshold,
            uncertain=outcome.uncertain,
            late=outcome.reason == "deadline",
            source=_text(entry.source),
            sequence=frame.sequence if frame else None,
            image=_text(frame.name) if frame else "",
            encoder=frame.encoder if frame else None,
            bundle=bundle,
            engine=engine,
            created=created.replace("+00:00", "Z"),
            wait_ms=round(1e3 * waited, 3),
            prepare_ms=round(outcome.prepare_ms, 3),
            engine_ms=round(outcome.engine_ms, 3),
            total_ms=round(1e3 * (now - entry.begun), 3),
            run=self._run,
        )


def _text(said: str) -> str:
    """What every output can write: a file's name may be bytes that are no UTF-8."""
    return said.encode("utf-8", "backslashreplace").decode()
