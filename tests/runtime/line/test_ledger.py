"""Whatever happens in whatever order: each part exactly one verdict, in order, OK only in time."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.runtime.line.frame import Frame
from sanflow.runtime.line.ledger import Entry, Ledger, Outcome

DEADLINE = 1.0
THRESHOLD = 0.5
FRAME = Frame(None, "no_image", 0.0)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.none() | st.integers(1, 5), st.floats(-1.5, 0)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.floats(0, 1)),
        st.tuples(st.just("reject"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.floats(0, 0.7)),
        st.tuples(st.just("take"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


def judged(score: float) -> Outcome:
    return Outcome("" if score <= THRESHOLD else "score", score=score, threshold=THRESHOLD)


class Play:
    """A ledger with a clock, and everything that left it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ledger = Ledger(DEADLINE)
        self.opened: list[Entry] = []
        self.first: dict[int, tuple[float, Outcome]] = {}
        """The first answer to each ticket that was accepted, and when."""
        self.left: list[tuple[float, Entry, Outcome]] = []

    def take(self) -> None:
        self.ledger.expire(self.now)
        for entry, outcome in self.ledger.take(self.now):
            self.left.append((self.now, entry, outcome))

    def step(self, kind: str, what: Any, value: float) -> None:
        if kind == "open":
            waiting = {entry.part for entry in self.ledger.entries}
            entry = self.ledger.open(what, self.now + value, FRAME)
            assert (entry is None) == (what in waiting)
            if entry is not None:
                self.opened.append(entry)
        elif kind == "wait":
            self.now += value
        elif kind == "take":
            self.take()
        elif what < len(self.opened):
            entry = self.opened[what]
            outcome = judged(value) if kind == "settle" else Outcome("engine_error", "broken")
            had = entry.outcome is not None
            assert self.ledger.settle(entry, outcome, self.now) == (not had)
            if not had:
                self.first[entry.ticket] = self.now, outcome


@given(steps)
def test_once_in_order_and_ok_only_in_time(sequence: list[tuple[str, Any, float]]) -> None:
    play = Play()
    for step in sequence:
        play.step(*step)
    play.now += DEADLINE + 1
    play.take()

    assert [entry.ticket for _, entry, _ in play.left] == list(range(1, len(play.opened) + 1))
    assert not play.ledger.entries
    for left, entry, outcome in play.left:
        answered, first = play.first.get(entry.ticket, (math.inf, None))
        if outcome.verdict == "OK":
            assert first is not None
            assert first.verdict == "OK"
            assert outcome is first
            assert answered <= entry.due
            assert left <= entry.due
        elif first is not None and answered <= entry.due and first.verdict == "NG":
            assert outcome is first
        else:
            assert outcome.reason == "deadline"


@given(steps)
def test_the_oldest_part_leaves_at_its_deadline(sequence: list[tuple[str, Any, float]]) -> None:
    play = Play()
    for step in sequence:
        play.step(*step)
        play.take()
        wakes = play.ledger.wakes()
        if play.ledger.entries:
            assert wakes == play.ledger.entries[0].due >= play.now
        else:
            assert wakes is None


@given(score=st.floats() | st.none(), threshold=st.floats())
def test_no_ok_without_a_finite_score(score: float | None, threshold: float) -> None:
    fine = score is not None and math.isfinite(score) and score <= threshold
    if fine:
        assert Outcome("", score=score, threshold=threshold).verdict == "OK"
    else:
        with pytest.raises(ValueError, match="OK with score"):
            Outcome("", score=score, threshold=threshold)


def test_an_answer_that_waited_too_long_for_its_turn_is_a_reject() -> None:
    play = Play()
    first, second = (play.ledger.open(None, play.now, FRAME) for _ in range(2))
    assert first is not None
    assert second is not None
    play.ledger.settle(second, judged(0.1), play.now + 0.5)
    play.ledger.settle(first, judged(0.1), play.now + 0.99)
    play.now += 1.01
    play.take()
    assert [outcome.reason for _, _, outcome in play.left] == ["deadline", "deadline"]
    assert "before the verdict could leave" in play.left[0][2].detail


def test_a_part_may_come_again_once_it_has_its_verdict() -> None:
    play = Play()
    first = play.ledger.open(7, play.now, FRAME)
    assert first is not None
    assert play.ledger.open(7, play.now, FRAME) is None
    play.ledger.settle(first, judged(0.1), play.now)
    assert play.ledger.open(7, play.now, FRAME) is None
    play.take()
    assert play.ledger.open(7, play.now, FRAME) is not None


def test_a_part_without_a_picture_is_not_called_late() -> None:
    play = Play()
    play.ledger.open(1, play.now)
    play.now += 2
    play.take()
    assert play.left[0][2].reason == "no_image"
