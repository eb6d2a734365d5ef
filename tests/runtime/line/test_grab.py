"""A source's thread: what it hands on, when it opens again, how it ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.runtime.line import grab
from sanflow.runtime.line.frame import Frame, missed
from sanflow.runtime.line.grab import Grabber
from sanflow.runtime.line.source import EndOfSource, Source, SourceError

from .station_kit import until

IMAGE = np.zeros((4, 4), np.uint8)


class Script(Source):
    """A source that does what a list says: frames, None, errors to raise, seconds to hang."""

    def __init__(self, steps: list[Any]) -> None:
        super().__init__("script")
        self.steps = steps
        self.opened = self.closed = 0

    def open(self) -> None:
        self.opened += 1
        if self.steps and self.steps[0] == "refuse":
            self.steps.pop(0)
            raise SourceError("nobody there")

    def read(self, timeout: float) -> Frame | None:
        if not self.steps:
            time.sleep(0.01)
            return None
        step = self.steps.pop(0)
        if isinstance(step, (int, float)):
            time.sleep(step)
            return None
        if isinstance(step, Exception):
            raise step
        found: Frame | None = step
        return found

    def close(self) -> None:
        self.closed += 1


class Ear:
    """A sink that listens."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.gaps: list[int] = []
        self.said: list[str] = []

    def frame(self, frame: Frame, source: Source) -> None:
        self.frames.append(frame)

    def missed(self, count: int, frame: Frame, source: Source) -> None:
        self.gaps.append(count)

    def answer(self, entry: Any, frame: Frame, source: Source) -> None: ...

    def wait_for_room(self, timeout: float) -> bool:
        return True

    def source_state(self, problem: str) -> None:
        self.said.append(problem)


def frame(sequence: int, **more: Any) -> Frame:
    return Frame(IMAGE, "ok", time.monotonic(), sequence=sequence, **more)


def listen(steps: list[Any], **options: Any) -> tuple[Grabber, Ear, Script]:
    ear, source = Ear(), Script(steps)
    made = Grabber(lambda: source, ear, **{"triggered": False, "silence": None, **options})
    made.start()
    return made, ear, source


def heard(made: Grabber, condition: Callable[[], object]) -> None:
    try:
        until(condition)
    finally:
        made.stop()
        assert made.join(5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grab, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(grab, "LONGEST_WAIT", 0.04)


def test_a_lost_source_is_opened_again() -> None:
    steps = [frame(1), SourceError("unplugged"), "refuse", "refuse", RuntimeError("odd"), frame(2)]
    made, ear, source = listen(steps)
    heard(made, lambda: len(ear.frames) == 2)
    assert ear.said == ["", "unplugged", "nobody there", "nobody there", "", "odd", ""]
    assert source.closed >= 4


def test_the_first_refusal_is_the_callers() -> None:
    made, ear, _ = listen(["refuse"])
    assert made.opened.wait(5)
    assert str(made.failure) == "nobody there"
    assert made.join(5)
    assert ear.said == []


def test_the_end_of_a_file_is_no_fault() -> None:
    made, ear, source = listen([frame(1), EndOfSource()])
    assert made.ended.wait(5)
    assert made.join(5)
    assert ear.said == [""]
    assert source.closed == 1


def test_gaps_repetitions_and_a_new_beginning() -> None:
    numbers = [1, 2, 5, 5, 6, 9000, 1, 2]
    made, ear, _ = listen([frame(number) for number in numbers])
    heard(made, lambda: len(ear.frames) == len(numbers))
    assert ear.gaps == [2]
    assert [f.status for f in ear.frames].count("no_image") == 1
    assert "5 twice" in ear.frames[3].detail


def test_a_frame_that_comes_after_it_was_given_up_is_a_reject() -> None:
    made, ear, source = listen([0.4, frame(1)])
    until(lambda: made.stuck(0.1))
    assert not made.stuck(10)
    made.abandon()
    source.steps[:] = []
    assert made.join(5)
    assert ear.frames == []
    made, ear, source = listen([])
    source.read = lambda timeout: (time.sleep(0.3), frame(1))[1]  # type: ignore[method-assign]
    until(lambda: made.stuck(0.1))
    made.abandon()
    assert made.join(5)
    assert [f.status for f in ear.frames] == ["no_image"]


def test_a_frozen_camera_is_told_and_forgiven() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(2))
    nearly = first.copy()
    nearly[1, 1, 1] ^= 1  # one pixel that the quick look does not see
    pictures = [first, nearly, first, first.copy(), first.copy(), first, second, first]
    steps = [Frame(image, "ok", 0.0, sequence=n) for n, image in enumerate(pictures)]
    made, ear, _ = listen(list(steps), frozen=3)
    heard(made, lambda: len(ear.frames) == len(pictures))
    assert [f.status for f in ear.frames] == ["ok"] * 4 + ["no_image"] * 2 + ["ok"] * 2
    assert ear.said == ["", grab.FROZEN, ""]


def test_silence_is_a_loss_where_it_is_said_to_be() -> None:
    made, ear, source = listen([frame(1)], silence=0.05)
    heard(made, lambda: source.opened >= 2)
    assert "no frame for 0.05 s" in ear.said


@given(
    first=st.integers(1, 65535),
    lost=st.lists(st.integers(0, 40), min_size=1, max_size=20),
)
def test_sequence_numbers_wrap(first: int, lost: list[int]) -> None:
    """GigE Vision's ids go from 65535 to 1; what is lost across the wrap is counted too."""
    number, frames = first, [frame(first, modulus=65536, skips_zero=True)]
    for gap in lost:
        for _ in range(gap + 1):
            number = 1 if number == 65535 else number + 1
        frames.append(frame(number, modulus=65536, skips_zero=True))
    assert [missed(a, b) for a, b in itertools.pairwise(frames)] == lost
