"""Pictures that waited are told from clocks that drift, whatever the clocks say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.runtime.line.sources.delay import DRIFT, Delay

jitters = st.lists(st.floats(0, 0.05), min_size=50, max_size=50)


@given(st.floats(-DRIFT / 2, DRIFT / 2), jitters)
def test_clocks_that_drift_make_no_delay(drift: float, jitter: list[float]) -> None:
    delay = Delay()
    for turn, late in enumerate(jitter):
        now = 600.0 * turn
        assert delay(5 + now * (1 + drift), 1000 + now + late) <= 0.05 + 1e-6


@given(st.floats(-1e6, 1e6), jitters, st.floats(0.5, 5.0))
def test_what_waited_is_seen(offset: float, jitter: list[float], waited: float) -> None:
    delay = Delay()
    for turn, late in enumerate(jitter):
        delay(offset + 0.1 * turn, 0.1 * turn + late)
    seen = delay(offset + 5.0, 5.0 + waited)
    assert waited - 0.06 <= seen <= waited + 1e-6


def test_a_clock_that_is_set_back_begins_anew() -> None:
    delay = Delay()
    delay(100.0, 1.0)
    assert delay(1.0, 1.1) == 0.0
    assert delay(1.1, 1.7) == pytest.approx(0.5, abs=1e-3)
    assert delay(None, 2.0) == 0.0
