"""When the emitter's thread looks up: in time for every part, however it came."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sanflow.runtime.line.emitter import Emitter
from sanflow.runtime.line.ledger import Ledger
from sanflow.runtime.line.output import Picture
from sanflow.runtime.line.result import PartResult

from .station_kit import until

DEADLINE = 2.0
"""Long, so that a machine that is busy with other tests cannot hide a thread that oversleeps."""


@pytest.fixture
def left() -> list[tuple[PartResult, float]]:
    """Results and when they left."""
    return []


@pytest.fixture
def emitter(left: list[tuple[PartResult, float]]) -> Iterator[Emitter]:
    def deliver(result: PartResult, picture: Picture | None) -> None:
        left.append((result, time.monotonic()))

    made = Emitter(Ledger(DEADLINE), deliver, lambda: ("", "", 0.0), "0123456789abcdef")
    made.start()
    time.sleep(0.1)  # it sleeps, and knows of no part
    yield made
    made.close()


def test_a_part_that_was_triggered_long_ago_is_not_slept_through(
    emitter: Emitter, left: list[tuple[PartResult, float]]
) -> None:
    due = time.monotonic() + 0.1
    emitter.open(None, due - DEADLINE)
    until(lambda: bool(left))
    result, at = left[0]
    assert result.late or result.reason == "no_image"
    assert 0 <= at - due < DEADLINE / 2


def test_a_part_in_the_middle_of_its_sleep_is_rejected_by_its_deadline(
    emitter: Emitter, left: list[tuple[PartResult, float]]
) -> None:
    time.sleep(DEADLINE / 2)
    begun = time.monotonic()
    emitter.open(None, begun)
    until(lambda: bool(left))
    assert 0 <= left[0][1] - begun - DEADLINE < DEADLINE / 4
