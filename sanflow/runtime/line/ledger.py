"""Who still waits for a verdict: the parts in the order they came, each answered exactly once.

Pure bookkeeping: no threads, no clock of its own. The first answer to a part counts, every later
one is turned away; a part without an answer at its deadline is a reject; answers leave in the
order of the parts. An OK can only be made of a finite score, and only leaves in time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

from .frame import Frame
from .output import Picture
from .result import Reason, Verdict


@dataclass(frozen=True)
class Outcome:
    """What was found out about a part, by whom, and how long it took."""

    reason: Reason
    detail: str = ""
    score: float | None = None
    threshold: float = 0.0
    uncertain: bool = False
    bundle: str = ""
    """Empty where no engine had a part in it."""
    engine: str = ""
    started: float | None = None
    """When the engine was reached, less the time for the pixels: it waited until then."""
    prepare_ms: float = 0.0
    engine_ms: float = 0.0
    picture: Picture | None = None

    @property
    def verdict(self) -> Verdict:
        """OK is what no reason speaks against."""
        return "NG" if self.reason else "OK"

    def __post_init__(self) -> None:
        if not self.reason and not (
            self.score is not None and math.isfinite(self.score) and self.score <= self.threshold
        ):
            raise ValueError(f"OK with score {self.score}, threshold {self.threshold}")


@dataclass(eq=False)
class Entry:
    """One part that was promised a verdict."""

    ticket: int
    """Counts from 1 without a gap: the number of its result."""
    part: int
    begun: float
    due: float
    frame: Frame | None
    """Once it is here; with a software trigger the part comes before its picture."""
    source: str
    outcome: Outcome | None = None


@dataclass
class Ledger:
    """All parts between trigger and verdict. Times are seconds on one monotonic clock."""

    deadline: float
    entries: deque[Entry] = field(default_factory=deque)
    opened: int = 0
    discarded: int = 0
    """Answers that came after the part's verdict was given."""
    _open_parts: set[int] = field(default_factory=set)

    def open(
        self, part: int | None, begun: float, frame: Frame | None = None, source: str = ""
    ) -> Entry | None:
        """Promise a verdict `deadline` after `begun`; None if this part waits for one already.

        Without an id the part gets the number of its result, or the next one that no open part
        has. A part that is due before one that was opened earlier keeps its deadline: if it has
        to wait too long for its turn, it is a reject, and costs no other part its verdict.
        """
        if part in self._open_parts:
            return None
        self.opened += 1
        number = self.opened if part is None else part
        while number in self._open_parts:
            number += 1
        entry = Entry(self.opened, number, begun, begun + self.deadline, frame, source)
        self.entries.append(entry)
        self._open_parts.add(number)
        return entry

    def settle(self, entry: Entry, outcome: Outcome, now: float) -> bool:
        """Answer a part; False if it has its answer already. Too late an answer is a reject."""
        if entry.outcome is not None:
            self.discarded += 1
            return False
        entry.outcome = outcome if now <= entry.due else _late(entry, outcome)
        return True

    def expire(self, now: float) -> None:
        """Reject every part whose deadline has passed without an answer."""
        for entry in self.entries:
            if entry.outcome is None and entry.due < now:
                entry.outcome = _late(entry, None)

    def take(self, now: float) -> list[tuple[Entry, Outcome]]:
        """The answers that may leave: from the oldest part on, up to the first that waits.

        An OK that was found in time but leaves too late is a reject: the gate has fallen.
        """
        leaving = []
        while self.entries and (outcome := self.entries[0].outcome) is not None:
            entry = self.entries.popleft()
            self._open_parts.discard(entry.part)
            if outcome.verdict == "OK" and now > entry.due:
                outcome = _late(entry, outcome)
            leaving.append((entry, outcome))
        return leaving

    def wakes(self) -> float | None:
        """When there is something to do next if nothing else happens: the oldest part's deadline.

        Infinitely long ago if an answer may leave now, None if no part waits.
        """
        if not self.entries:
            return None
        head = self.entries[0]
        return head.due if head.outcome is None else -math.inf


def _late(entry: Entry, outcome: Outcome | None) -> Outcome:
    spent = f"{1e3 * (entry.due - entry.begun):.0f} ms passed"
    if entry.frame is None:
        return Outcome("no_image", f"{spent} without a picture")
    if outcome is None:
        return Outcome("deadline", f"{spent} without a score")
    return replace(outcome, reason="deadline", detail=f"{spent} before the verdict could leave")
