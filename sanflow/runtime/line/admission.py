"""From a frame, or a trigger, to a promise: here a part gets its entry in the ledger.

Whoever was admitted gets a verdict. What cannot be judged is answered at once, with the reason; the
rest waits in the queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .emitter import Emitter
from .frame import Frame
from .ledger import Entry
from .queue import PartQueue
from .result import Reason
from .source import Source
from .state import Keeper
from .swap import Judge
from .worker import rejected

_log = logging.getLogger(__name__)


class Admission:
    """What the grabbers' news and the PLC's triggers become."""

    def __init__(
        self, emitter: Emitter, queue: PartQueue[Entry, Judge | None], keeper: Keeper
    ) -> None:
        self._emitter, self._queue, self._keeper = emitter, queue, keeper
        self.request: Callable[[Entry], None] | None = None
        """Triggers the camera; None where it is not the station that does."""

    def frame(self, frame: Frame, source: Source) -> None:
        """A frame in free run, or by an external trigger: one part."""
        begun = frame.received if source.live else time.monotonic()
        begun = begun if frame.triggered is None else frame.triggered
        entry = self._emitter.open(frame.part, begun, frame, source.name)
        if entry is None:
            _tell_of_duplicate(frame.part, source.name)
            return
        self._admit(entry, frame)

    def missed(self, count: int, frame: Frame, source: Source) -> None:
        """Parts whose frames were lost on the way: nobody saw them, so they are rejects."""
        for _ in range(count):
            lost = Frame(None, "no_image", frame.received, detail="a frame was lost on the way")
            entry = self._emitter.open(None, frame.received, lost, source.name)
            if entry is not None:
                self._admit(entry, lost)

    def answer(self, entry: Entry, frame: Frame, source: Source) -> None:
        """The frame of a part that was triggered and has its entry already."""
        entry.frame, entry.source = frame, source.name
        self._admit(entry, frame)

    def trigger(self, part: int) -> None:
        """The PLC says that this part is in position; its deadline runs from now."""
        entry = self._emitter.open(part, time.monotonic())
        if entry is None:
            _tell_of_duplicate(part, "trigger")
        elif reason := self._refusal():
            self._emitter.settle(entry, rejected(*reason))
        elif self.request is None:
            detail = 'the station triggers no camera here; set [source] trigger = "software"'
            self._emitter.settle(entry, rejected("no_image", detail))
        elif lost := self._keeper.faults.get("source"):
            self._emitter.settle(entry, rejected("no_image", lost))
        else:
            self.request(entry)

    def wait_for_room(self, timeout: float) -> bool:
        """Whether a source that can wait may read its next frame: nothing else waits."""
        return self._queue.wait_for_empty(timeout)

    def source_state(self, problem: str) -> None:
        """The camera was lost, in words, or is there again (empty)."""
        if problem:
            _log.warning("source: %s", problem)
        self._keeper.fault("source", problem)

    def _admit(self, entry: Entry, frame: Frame) -> None:
        if reason := self._refusal():
            self._emitter.settle(entry, rejected(*reason))
        elif frame.status != "ok":
            detail = frame.detail or "the source has no picture of this part"
            self._emitter.settle(entry, rejected(frame.status, detail))
        elif not self._queue.put(entry):
            detail = f"{self._queue.capacity} parts waited already"
            self._emitter.settle(entry, rejected("overflow", detail))

    def _refusal(self) -> tuple[Reason, str] | None:
        """Why no part may be judged at the moment."""
        if problem := self._keeper.faults.get("self_test"):
            return "self_test", problem
        if self._queue.engine is None:
            return "not_ready", "the station is not ready"
        return None


def _tell_of_duplicate(part: int | None, source: str) -> None:
    _log.warning("%s: part %s waits for its verdict already", source, part)
