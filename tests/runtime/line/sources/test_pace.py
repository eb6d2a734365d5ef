"""Gaps in a stream of equal intervals, whatever its rate, and none where there is only jitter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av")
from sanflow.runtime.line.sources.decode import Pace


@given(
    st.floats(1, 200),
    st.lists(st.floats(-0.15, 0.15), min_size=40, max_size=40),
    st.sets(st.integers(8, 38), max_size=3),
)
def test_each_lost_picture_is_counted(rate: float, jitter: list[float], lost: set[int]) -> None:
    pace = Pace()
    times = [(n + late) / rate for n, late in enumerate(jitter) if n not in lost]
    assert sum(pace(time) for time in times) == len(lost)


def test_a_clock_that_is_set_back_or_missing_is_no_gap() -> None:
    pace = Pace()
    assert [pace(t) for t in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)] == [0] * 7
    assert [pace(t) for t in (0.0, None, 5.0, 5.1, 5.3)] == [0, 0, 0, 0, 1]
