"""One count of work done over all phases of an export, for one bar that never goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called with the steps done and their total."""


class Counter:
    """Counts steps; each phase has its share of the total, however many steps it takes."""

    def __init__(self, report: Progress | None) -> None:
        self._report = report
        self._total = self._done = self._end = 0

    def begin(self, total: int) -> None:
        """Say how many steps all phases have together."""
        self._total = total

    @contextmanager
    def phase(self, steps: int) -> Iterator[None]:
        """The next so many steps: what is counted inside stops at their end, which is reached."""
        self._end += steps
        yield
        self.add(self._end - self._done)

    @property
    def left(self) -> int:
        """Steps that no phase has had yet."""
        return self._total - self._end

    def add(self, steps: int = 1) -> None:
        """Count steps of the phase."""
        self._done = min(self._done + steps, self._end)
        if self._report is not None:
            self._report(self._done, self._total)
