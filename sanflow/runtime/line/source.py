"""The source contract: one camera, folder or stream, read by one thread of its own.

A source may hang in a driver for as long as it likes: the station never waits for it in the path of
a verdict, and its watchdog leaves a hung source behind. So a source needs no threads, no retries
and no deadlines of its own; it opens, reads, and says in one sentence what went wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Literal

from ...errors import SanflowError
from .frame import Frame

Trigger = Literal["free", "software", "external"]


class SourceError(SanflowError):
    """A source cannot be opened, or was lost: what is missing, and what to install or check."""

    exit_code = 8


class EndOfSource(Exception):
    """Everything was read; only a source that is not live ends."""


class Source(ABC):
    """One place where frames come from. All calls come from the thread that opened it."""

    live: bool = True
    """A live source cannot be made to wait: what does not fit in the queue is a reject.
    One that is not live (a folder, a file) is read as fast as the engine takes it."""
    can_trigger: bool = False
    """Whether `trigger` asks the camera for one exposure."""
    mode: Trigger = "free"
    """What makes it expose; set before `open`."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The URI without credentials, for logs and messages."""

    @abstractmethod
    def open(self) -> None:
        """Connect and arm; SourceError says what is absent and what to do. May be called again
        after `close`: that is how the station reconnects."""

    @abstractmethod
    def read(self, timeout: float) -> Frame | None:
        """The next frame, or None after about `timeout` seconds without one.

        Raises SourceError when the source is lost (the station closes, waits and opens it again),
        EndOfSource when there is nothing left.
        """

    def trigger(self, part: int) -> None:
        """Ask for one exposure of this part (only where `can_trigger`)."""
        raise SourceError(f'{self.name}: has no software trigger; use trigger = "free"')

    @abstractmethod
    def close(self) -> None:
        """Let go of the camera; never raises, may be called twice."""

    def __enter__(self) -> Source:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
