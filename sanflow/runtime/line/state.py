"""What the station says of itself: its stage, its faults with hysteresis, its heartbeat.

Lateness that repeats is a fault until enough parts in a row were judged in time, so that a line
does not start and stop with every other part. The heart beats with every part that an engine
judged in time, and with every golden sample it judged while there was none: it stops when the
engine does.
"""

from __future__ import annotations

import threading

from .output import State, StationState
from .result import PartResult

UNUSABLE = 5
"""Pictures in a row that cannot be judged, until a person is told."""


class Keeper:
    """The station's state; every method may be called from any thread."""

    def __init__(self, late_to_fault: int, recover: int) -> None:
        """That many late parts in a row are a fault; that many judged in time end it."""
        self._late_to_fault, self._recover = late_to_fault, recover
        self._lock = threading.Lock()
        self._stage: State = "Preoperational"
        self.faults: dict[str, str] = {}
        """In words, by kind: source, engine, late, self_test."""
        self._warnings: dict[str, str] = {}
        self._late = self._timely = self._unusable = 0
        self._heartbeat = 0
        self._begun = False
        self.bundle = ""

    def stage(self, stage: State) -> None:
        """The next step of the station's life; faults are told on top of it."""
        with self._lock:
            self._stage = stage

    def advance(self) -> None:
        """The stage was told: Ready becomes Running now, once a part has its verdict."""
        with self._lock:
            if self._stage == "Ready" and self._begun:
                self._stage = "Running"

    def fault(self, kind: str, text: str) -> None:
        """The line must not trust the station, in words; an empty text ends it."""
        with self._lock:
            _set(self.faults, kind, text)

    def warning(self, kind: str, text: str) -> None:
        """A person should look, in words; an empty text ends it."""
        with self._lock:
            _set(self._warnings, kind, text)

    def result(self, result: PartResult) -> None:
        """A verdict was given."""
        with self._lock:
            self._begun = self._begun or self._stage == "Ready"
            self._pictures(result)
            if result.late:
                self._late, self._timely = self._late + 1, 0
                if self._late >= self._late_to_fault:
                    # The same words however many follow: it is one fault, told once.
                    count = self._late_to_fault
                    text = f"{count} or more parts in a row were not judged by their deadline"
                    self.faults["late"] = text
                return
            if result.score is None:
                return  # nobody judged it, which says nothing about the engine's pace
            self._late = 0
            self._timely += 1
            self._heartbeat += 1
            if self._timely >= self._recover:
                self.faults.pop("late", None)

    def _pictures(self, result: PartResult) -> None:
        if result.score is not None:
            self._unusable = 0
            self._warnings.pop("pictures", None)
        elif result.reason == "incomplete":
            self._unusable += 1
            if self._unusable == UNUSABLE:
                # The same words however many follow, and whatever is wrong with each of them.
                text = f"{UNUSABLE} or more pictures in a row could not be judged: {result.detail}"
                self._warnings["pictures"] = text

    def checked(self, problem: str) -> None:
        """A golden sample was judged in between; what was wrong stays a fault."""
        with self._lock:
            if problem:
                self.faults["self_test"] = problem
            else:
                self._heartbeat += 1

    @property
    def heartbeat(self) -> int:
        """As StationState.heartbeat."""
        return self._heartbeat

    def snapshot(self, queue: int) -> StationState:
        """What is told to the outputs."""
        with self._lock:
            fault = "; ".join(self.faults.values())
            return StationState(
                state="Error" if fault and self._stage != "Halted" else self._stage,
                fault=fault,
                heartbeat=self._heartbeat,
                bundle=self.bundle,
                queue=queue,
                warning="; ".join(self._warnings.values()),
            )


def _set(table: dict[str, str], kind: str, text: str) -> None:
    if text:
        table[kind] = text
    else:
        table.pop(kind, None)
