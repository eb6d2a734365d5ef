"""A camera's own thread: open, read, hand over, and open again when it was lost.

Whatever a driver does, it does it here. A call that does not come back is left behind together with
its thread, and a new thread opens the source anew; a frame that the old one still delivers is a
reject, for what it shows has long gone by. Between attempts the wait doubles, from a quarter of a
second to five.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from .frame import Frame, missed
from .frozen import Frozen
from .ledger import Entry
from .source import EndOfSource, Source

READ = 0.2
"""Seconds that one read may wait for a frame."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 5.0
"""Seconds before a lost source is opened again."""
FROZEN = "the camera sends the same picture again and again"
SLOW_TO_OPEN = 6
MOST_MISSED = 1000
"""A larger gap in the source's numbers is a source that counts anew, not parts that were lost."""

_log = logging.getLogger(__name__)
_names = itertools.count(1)


class Sink(Protocol):
    """Where a grabber's news go; the methods return at once, except `wait_for_room`."""

    def frame(self, frame: Frame, source: Source) -> None:
        """A frame in free run, or by an external trigger."""

    def missed(self, count: int, frame: Frame, source: Source) -> None:
        """The source counted so many frames before this one that it did not hand over."""

    def answer(self, entry: Entry, frame: Frame, source: Source) -> None:
        """The frame of a part that was triggered."""

    def wait_for_room(self, timeout: float) -> bool:
        """For a source that is not live: whether the engine takes the next frame."""

    def source_state(self, problem: str) -> None:
        """The source was lost, in words, or works (empty)."""


class Grabber:
    """One thread around one source at a time."""

    def __init__(
        self,
        make: Callable[[], Source],
        sink: Sink,
        *,
        triggered: bool,
        silence: float | None = None,
        frozen: int = 0,
    ) -> None:
        """`triggered`: the station asks for each frame; `silence`: seconds after which a source
        without frames is lost; `frozen`: equal pictures in a row that make it so."""
        self._make, self._sink = make, sink
        self._triggered, self._silence = triggered, silence
        self._frozen = Frozen(frozen)
        self._problem = ""
        self._requests: deque[Entry] = deque()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._abandoned = False
        self._since: float | None = None
        self._opening = False
        self.ended = threading.Event()
        """Set when a source that is not live was read to its end."""
        self.opened = threading.Event()
        """Set when the source was opened once, or could not be: see `failure`."""
        self.failure: Exception | None = None
        """Why the first attempt to open it failed."""
        name = f"sanflow-grab-{next(_names)}"
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin to open and read."""
        self._thread.start()

    def stuck(self, limit: float) -> bool:
        """Whether a call of the source takes longer than `limit` seconds, opening it 6 times as
        long: cameras may be slow to connect."""
        since = self._since
        patience = limit * (SLOW_TO_OPEN if self._opening else 1)
        return since is not None and time.monotonic() - since > patience

    def request(self, entry: Entry) -> None:
        """Trigger the camera for this part."""
        self._requests.append(entry)
        self._wake.set()

    def stop(self) -> None:
        """Read no more frames."""
        self._stop.set()
        self._wake.set()

    def abandon(self) -> None:
        """As `stop`, and nothing that this thread still says counts."""
        self._abandoned = True
        self.stop()

    def join(self, timeout: float) -> bool:
        """Whether it has ended, after `timeout` seconds at most."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        wait = FIRST_WAIT
        while not self._stop.is_set():
            source = None
            try:
                self._enter(opening=True)
                source = self._make()
                source.open()
                self._leave()
                self.opened.set()
                self._tell("")
                wait = FIRST_WAIT
                (self._read_triggered if self._triggered else self._read_free)(source)
            except EndOfSource:
                self.ended.set()
                return
            except Exception as error:  # drivers raise what they like
                if not self.opened.is_set():
                    self.failure = error
                    self.opened.set()
                    return
                self._tell(str(error) or repr(error))
            finally:
                if source is not None:
                    self._enter()
                    source.close()
                self._leave()
            if self._stop.is_set():
                return
            self._wake.clear()
            self._sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _read_free(self, source: Source) -> None:
        before: Frame | None = None
        heard = time.monotonic()
        while not self._stop.is_set():
            if not source.live and not self._sink.wait_for_room(READ):
                continue
            frame = self._call(lambda: source.read(READ))
            if self._abandoned:
                if frame is not None:
                    self._sink.frame(_stale(frame), source)
                return
            if frame is None:
                self._check_silence(heard)
                continue
            heard = time.monotonic()
            if before is not None:
                if repeated(before, frame):
                    detail = f"the source handed over its frame {frame.sequence} twice"
                    self._sink.frame(_without_picture(frame, detail), source)
                    continue
                if 0 < (count := missed(before, frame)) <= MOST_MISSED:
                    self._sink.missed(count, frame, source)
            before = frame
            self._sink.frame(self._look(frame), source)

    def _read_triggered(self, source: Source) -> None:
        while not self._stop.is_set():
            entry = self._next_request()
            if entry is None or entry.outcome is not None:
                continue
            self._call(lambda entry=entry: source.trigger(entry.part))  # type: ignore[misc]
            while (left := entry.due - time.monotonic()) > 0 and not self._stop.is_set():
                frame = self._call(lambda left=left: source.read(min(READ, left)))  # type: ignore[misc]
                if self._abandoned:
                    return
                if frame is None:
                    continue
                if frame.part in (None, entry.part):
                    self._sink.answer(entry, self._look(frame), source)
                    break
                _log.warning("%s: a frame of part %s came too late", source.name, frame.part)
            else:
                if not self._stop.is_set():
                    # Its frame may still come, and must not be taken for that of the next part.
                    raise TimeoutError(f"{source.name}: no frame after the trigger")

    def _look(self, frame: Frame) -> Frame:
        """The frame, without its picture if the camera is frozen."""
        if frame.image is None:
            return frame
        problem = FROZEN if self._frozen(frame.image) else ""
        if problem != self._problem:
            self._tell(problem)
        return _without_picture(frame, problem) if problem else frame

    def _next_request(self) -> Entry | None:
        if not self._requests:
            self._wake.wait(READ)
        self._wake.clear()
        return self._requests.popleft() if self._requests else None

    def _call(self, call: Callable[[], Frame | None]) -> Frame | None:
        self._enter()
        try:
            return call()
        finally:
            self._leave()

    def _check_silence(self, heard: float) -> None:
        if self._silence is not None and time.monotonic() - heard > self._silence:
            raise TimeoutError(f"no frame for {self._silence:g} s")

    def _tell(self, problem: str) -> None:
        self._problem = problem
        if not self._abandoned:
            self._sink.source_state(problem)

    def _sleep(self, wait: float) -> None:
        """Wait, unless told to stop; who triggers meanwhile gets no picture."""
        end = time.monotonic() + wait
        while not self._stop.is_set() and (left := end - time.monotonic()) > 0:
            self._wake.wait(min(left, READ))
            self._wake.clear()
            self._requests.clear()

    def _enter(self, *, opening: bool = False) -> None:
        self._opening = opening
        self._since = time.monotonic()

    def _leave(self) -> None:
        self._since = None


def _without_picture(frame: Frame, detail: str) -> Frame:
    return replace(frame, image=None, status="no_image", detail=detail)


def _stale(frame: Frame) -> Frame:
    return _without_picture(frame, "it came after its source was given up")


def repeated(before: Frame, after: Frame) -> bool:
    """Whether a source that counts its frames handed over the same one again."""
    return before.sequence is not None and before.sequence == after.sequence
