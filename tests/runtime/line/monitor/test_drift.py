"""Drift: the promised rate of false alarms, by algebra and by simulation; and that it is found."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from sanflow.runtime.line.monitor import drift, reference
from sanflow.runtime.line.monitor.drift import Drift, Evidence, Ranks
from sanflow.runtime.line.monitor.options import MonitorOptions
from sanflow.runtime.line.monitor.watch import Watch

from ..outputs.conftest import a_result, rejected
from .kit import health, metrics, monitor, value


@pytest.mark.parametrize("shift", [d for s in drift.SHIFTS for d in (s, -s)])
def test_a_bet_on_scores_wins_nothing_on_average(shift: float) -> None:
    bet = drift._shift(shift)
    # In normal deviates: p-space has its mass in an endless corner.
    mean, _ = integrate.quad(lambda z: bet(stats.norm.sf(z)) * stats.norm.pdf(z), -6.5, 6.5)
    assert mean == pytest.approx(1, abs=1e-4)


@given(st.floats(0.001, 0.6), st.floats(0, 1), st.sampled_from(drift.ODDS))
def test_a_bet_on_rejects_wins_nothing_up_to_the_usual_share(
    usual: float, part: float, odds: float
) -> None:
    bet, share = drift._share(usual, odds), part * usual
    assert share * bet(1.0) + (1 - share) * bet(0.0) <= 1 + 1e-9
    assert usual * bet(1.0) + (1 - usual) * bet(0.0) == pytest.approx(1)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), max_size=8), st.data())
def test_a_p_value_is_the_share_of_scores_that_are_as_great(scores: list[float], data: Any) -> None:
    u, new = data.draw(st.floats(0, 1)), data.draw(st.sampled_from([0.0, 1.0, 1.5]))
    ranks = Ranks(scores, lambda: u)
    above = sum(s > new for s in scores)
    equal = sum(s == new for s in scores) + 1
    assert ranks.p(new) == pytest.approx((above + u * equal) / (len(scores) + 1))
    # It is one of those before from then on.
    assert ranks.p(1e9) == pytest.approx(u / (len(scores) + 2))


def test_p_values_are_uniform_and_independent_however_few_calibration_parts() -> None:
    rng = random.Random(5)
    rows = []
    for _ in range(1500):
        ranks = Ranks([rng.gammavariate(2, 1) for _ in range(4)], rng.random)
        rows.append([ranks.p(rng.gammavariate(2, 1)) for _ in range(6)])
    found = np.array(rows)
    for column in found.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    correlations = np.corrcoef(found.T)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(len(found))


@pytest.mark.parametrize("defects", [0.0, 0.05])
def test_false_alarms_come_as_rarely_as_promised(defects: float) -> None:
    """On average once in 300 parts or more rarely; and by part T with at most T / 300."""
    rng, waits = random.Random(11), []
    for _ in range(60):
        calibration = [rng.lognormvariate(0, 0.4) for _ in range(20)]
        found = Drift(calibration, max(calibration), parts=300, rejects=0.3, seed=rng.randrange(99))
        for t in range(1, 1501):
            bad = rng.random() < defects
            if found.add(9.0 if bad else rng.lognormvariate(0, 0.4), t, ""):
                break
        waits.append(t)
    assert np.mean(waits) >= 300
    assert np.mean([t <= 60 for t in waits]) <= 60 / 300


@pytest.mark.parametrize(
    ("shift", "signal"), [(1.0, {"rising", "rejects"}), (-1.0, {"falling"}), (3.0, {"rejects"})]
)
def test_a_shift_is_found_soon_after_it_began(shift: float, signal: set[str]) -> None:
    rng = random.Random(2)
    calibration = [rng.gauss(0, 1) for _ in range(100)]
    found = Drift(calibration, sorted(calibration)[-2], parts=10**6, rejects=0.1, seed=1)
    for t in range(1000):
        assert not found.add(rng.gauss(0, 1), t, "")
    for t in range(1000, 1200):
        if begun := found.add(rng.gauss(shift, 1), t, "then"):
            break
    assert {alarm.signal for alarm in begun} <= signal
    assert begun[0].part == t
    assert begun[0].created == "then"


def test_an_alarm_lasts_while_the_drift_does_and_ends_after_it() -> None:
    rng = random.Random(2)
    found = Drift([rng.gauss(0, 1) for _ in range(100)], 5.0, parts=10**6, rejects=0.1, seed=1)
    begun = [a for t in range(4000) for a in found.add(rng.gauss(-2, 1), t, "")]
    assert [alarm.signal for alarm in begun] == ["falling"]
    assert set(found.alarms) == {"falling"}
    for t in range(drift.QUIET + 200):
        found.add(rng.gauss(0, 1), t, "")
    assert not found.alarms


def test_evidence_is_shiryaev_and_roberts_sum() -> None:
    bets = [lambda x: x, lambda x: 2 * x]
    found = Evidence(bets, 10.0)
    assert not found.add(1.0)
    assert found.total == (1 + 2) / 2
    assert not found.add(1.0)
    assert found.total == (2 + 6) / 2
    assert 0 < found.share < 1
    assert not found.add(1.0)
    assert found.add(1.0)
    found.restart()
    assert found.total == found.share == 0


def judge(scores: list[float], digest: str, name: str) -> Any:
    decision = SimpleNamespace(display_low=0.0, display_high=1.0)
    graph = SimpleNamespace(scores=tuple(scores), decision=decision)
    return SimpleNamespace(digest=digest, name=name, engine=SimpleNamespace(graph=graph))


def test_each_bundle_is_compared_with_its_own_calibration(tmp_path: Path) -> None:
    reference.keep(tmp_path, judge([0.4, 0.5, 0.6], "a" * 64, "engine fp32"))
    reference.keep(tmp_path, judge([7.0, 8.0, 9.0, 9.5], "b" * 64, "engine fp32"))
    watch = Watch(MonitorOptions(), tmp_path)
    watch.look(a_result(1, bundle="a" * 64, engine="engine fp32"))
    assert watch.document()["calibration_parts"] == 3
    watch.look(rejected(2, bundle="c" * 64))
    assert watch.document()["calibration_parts"] == 3
    more = {"score": 8.5, "threshold": 9.5}
    watch.look(a_result(4, bundle="b" * 64, engine="engine fp32", **more))
    assert watch.document()["calibration_parts"] == 3  # 9.5 is the threshold itself
    watch.look(a_result(5, bundle="b" * 64, engine="engine int8", **more))
    assert watch.document()["calibration_parts"] == 0


def test_a_reference_that_is_something_else_is_none(tmp_path: Path) -> None:
    reference.keep(tmp_path, judge([1.0], "a", "b"))
    (path,) = (tmp_path / "references").iterdir()
    assert reference.find(tmp_path, "a", "b") == reference.Reference((1.0,), 0.0, 1.0)
    assert reference.find(tmp_path, "a", "c") is None
    for text in ("{", "[1.0]", '{"scores": [1.0]}', '{"scores": 1, "display_low": 0}'):
        path.write_text(text)
        assert reference.find(tmp_path, "a", "b") is None


def test_an_alarm_is_seen_in_health_and_metrics_and_is_no_fault(tmp_path: Path) -> None:
    rng = random.Random(3)
    with monitor(tmp_path, drift_parts=1000, rejects=0.2) as (made, port):
        reference.keep(tmp_path, judge([rng.gauss(1, 0.1) for _ in range(50)], "d" * 64, "e"))
        for number in range(1, 200):
            score = rng.gauss(0.7, 0.1)
            fields = {"score": score, "threshold": 3.0, "verdict": "OK", "reason": ""}
            made.emit(a_result(number, bundle="d" * 64, engine="e", **fields), None)
        found, (_, document) = metrics(port), health(port)
    assert value(found, "sanflow_drift_alarm", signal="falling") == 1
    assert value(found, "sanflow_drift_alarm", signal="rising") == 0
    (alarm,) = document["drift"]["alarms"]
    assert alarm["signal"] == "falling"
    assert "score lower" in alarm["text"]
    assert document["fault"] == ""
