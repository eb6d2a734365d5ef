"""What the gate measures and what it refuses, on engines that are wrong in one known way each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sanflow.bundle import Decision
from sanflow.calibration.threshold import conformal_threshold
from sanflow.export.gate import Contract, Jury
from sanflow.export.parts import Kind, Part
from sanflow.export.settle import FP32, measured, settle
from sanflow.runtime.engine import Engine, TensorSpec

SIDE = 8
LIMITS = Contract()


def image(value: int) -> NDArray[np.uint8]:
    """All pixels alike: the fake model's score is the value over 10."""
    return np.full((SIDE, SIDE, 3), value, np.uint8)


def part(kind: Kind, value: int, defect: slice | None = None) -> Part:
    pixels, mask = image(value), None
    if defect is not None:
        mask = np.zeros((SIDE, SIDE), np.bool_)
        mask[defect, defect] = True
        pixels[mask] = min(value + 60, 255)
    heat = pixels[..., 0].astype(np.float32) / 10
    return Part(f"{kind} {value}", kind, pixels, float(heat.max()), heat, mask)


class Fake(Engine):
    """Pixels over ten, and then `bend` on score and map."""

    name = "fake"

    def __init__(self, bend: Callable[[Any, Any], tuple[Any, Any]], batch: int = 3) -> None:
        super().__init__(
            "1",
            1,
            (TensorSpec("image", "uint8", (batch, SIDE, SIDE, 3)),),
            (
                TensorSpec("score", "float32", (batch,)),
                TensorSpec("map", "float32", (batch, SIDE, SIDE)),
            ),
        )
        self._bend = bend

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        maps = images[..., 0].astype(np.float32) / 10
        score, heat = self._bend(maps.max(axis=(1, 2)), maps)
        return {"score": np.float32(score), "map": np.float32(heat)}

    def _release(self) -> None:
        pass


GOOD = [part("calibration", value) for value in range(20, 40)]
ANOMALIES = [part("synthetic", value) for value in range(36, 76, 5)]
DEFECTS = [part("defect", value, slice(2, 5)) for value in (22, 24, 26)]


def jury(*more: Part) -> Jury:
    """Twenty good parts scoring 2.0 to 3.9, threshold 3.8, uncertain from 3.5 to 4.1."""
    threshold = conformal_threshold([p.score for p in GOOD], 0.1).value
    assert threshold == pytest.approx(3.8)
    return Jury((*GOOD, *ANOMALIES, *more), Decision(threshold + 1e-3, 0.1, 3.5, 4.15, 0.0, 9.0))


def same(score: Any, heat: Any) -> tuple[Any, Any]:
    return score, heat


def test_the_same_function_loses_nothing() -> None:
    loss = jury(*DEFECTS).hear(Fake(same))
    assert loss.broken(LIMITS) == ()
    assert loss.used(LIMITS) == 0
    assert loss.rank_correlation == 1
    assert loss.auroc_loss == 0
    assert loss.aupro_loss == 0
    assert loss.parts == 31
    assert max(dataclasses.astuple(loss.extremes)) < 1e-6
    assert loss.scores == pytest.approx(jury(*DEFECTS).scores)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_part_is_heard_whatever_the_batch(batch: int) -> None:
    told: list[int] = []
    loss = jury().hear(Fake(same, batch), told.append)
    assert sum(told) == loss.parts == 28
    assert loss.broken(LIMITS) == ()


def test_synthetic_anomalies_bound_where_a_map_points() -> None:
    """The image score is right, but the map no longer shows where masked anomalies lie."""
    masked = [part("synthetic", value, slice(2, 5)) for value in (22, 24, 26)]

    def mirrored(score: Any, heat: Any) -> tuple[Any, Any]:
        return score, heat[:, ::-1, ::-1]

    fair = dataclasses.replace(LIMITS, map_error=np.inf)
    kept, lost = jury(*masked).hear(Fake(same)), jury(*masked).hear(Fake(mirrored))
    assert kept.synthetic_aupro_loss == 0
    assert lost.synthetic_aupro_loss is not None
    assert lost.synthetic_aupro_loss > fair.aupro_loss
    assert "AUPRO of synthetic anomalies falls by" in lost.broken(fair)[0]
    assert lost.used(fair) > 1
    assert lost.aupro_loss is None
    assert jury().hear(Fake(mirrored)).synthetic_aupro_loss is None  # no mask, no measure


def test_a_shift_of_all_scores_moves_the_threshold_and_no_verdict() -> None:
    """Thirty times the error that would flip verdicts at PyTorch's own threshold."""
    loss = jury().hear(Fake(lambda score, heat: (score + 3, heat)))
    assert loss.flips == ()
    assert loss.rank_correlation == 1
    assert loss.broken(LIMITS) == ()
    assert loss.extremes.score_relative == pytest.approx(3 / 2)
    assert loss.extremes.upper_relative == pytest.approx(3 / 3.0, rel=1e-3)


def test_an_anomaly_that_is_no_longer_found_breaks_the_contract() -> None:
    def blind(score: Any, heat: Any) -> tuple[Any, Any]:
        return np.where(score > 7, 2.5, score), heat

    loss = jury().hear(Fake(blind))
    (line,) = [line for line in loss.broken(LIMITS) if "flip" in line]
    assert line.startswith("fake 1: 1 verdicts flip outside the band: synthetic 71 (PyTorch 7.1")
    assert loss.used(LIMITS) == np.inf
    assert loss.broken(Contract(flips_outside=1, rank_correlation=0)) == ()


def test_a_flip_inside_the_band_is_counted_and_forgiven() -> None:
    def swap(score: Any, heat: Any) -> tuple[Any, Any]:
        return np.where(np.isclose(score, 4.1), 3.75, score), heat

    loss = jury().hear(Fake(swap))
    assert [flip.image for flip in loss.flips] == ["synthetic 41"]
    assert loss.flips_outside == ()
    assert loss.broken(LIMITS) == ()


def test_maps_are_judged_though_scores_are_right() -> None:
    loss = jury().hear(Fake(lambda score, heat: (score, heat + 0.5)))
    assert loss.map_error == pytest.approx(0.5 / 1.9, rel=1e-5)
    assert loss.broken(LIMITS) == (
        "fake 1: map error 0.263 of the good parts' score range is above 0.1",
    )
    assert loss.used(LIMITS) == pytest.approx(2.63, abs=0.01)


def test_order_counts() -> None:
    loss = jury().hear(Fake(lambda score, heat: (-score, heat)))
    assert loss.rank_correlation == -1
    assert any("rank correlation -1.0000 is below 0.98" in line for line in loss.broken(LIMITS))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_kept(bad: float) -> None:
    def broken_score(score: Any, heat: Any) -> tuple[Any, Any]:
        return np.where(score > 7, bad, score), heat

    def broken_map(score: Any, heat: Any) -> tuple[Any, Any]:
        return score, np.where(heat > 7, bad, heat)

    for bend in (broken_score, broken_map):
        loss = jury(*DEFECTS).hear(Fake(bend))
        assert loss.broken(LIMITS)
        assert loss.used(LIMITS) > 1


def test_labelled_defects_bound_the_loss_in_points() -> None:
    """Three defects score above every good part; the graph puts one of them among these."""

    def weak(score: Any, heat: Any) -> tuple[Any, Any]:
        return np.where(np.isclose(score, 8.2), 2.95, score), heat

    loss = jury(*DEFECTS).hear(Fake(weak))
    assert loss.auroc_loss == pytest.approx(100 * 10 / 60)
    assert loss.aupro_loss == 0
    assert any(
        "AUROC of the defects falls by 16.67 points, above 0.2" in x for x in loss.broken(LIMITS)
    )

    flat = jury(*DEFECTS).hear(Fake(lambda score, heat: (score, np.minimum(heat, 2.0))))
    assert flat.auroc_loss == 0
    assert flat.aupro_loss is not None
    assert flat.aupro_loss > 50
    assert any("AUPRO of the defects falls" in line for line in flat.broken(LIMITS))


def test_without_defects_their_limits_do_not_apply() -> None:
    loss = jury().hear(Fake(same))
    assert (loss.auroc_loss, loss.aupro_loss) == (None, None)
    assert loss.broken(Contract(auroc_loss=-1, aupro_loss=-1)) == ()


def test_the_users_good_parts_do_not_move_the_threshold() -> None:
    more = [part("good", value) for value in range(60, 80)]
    assert jury(*more).threshold(jury(*more).scores) == jury().threshold(jury().scores)


def test_a_first_look_keeps_every_kind_and_the_parts_that_decide() -> None:
    few = jury(*DEFECTS).smaller(10)
    assert {p.kind for p in few.parts} == {"calibration", "synthetic", "defect"}
    assert len(few.parts) <= 13
    assert max(p.score for p in few.parts if p.kind == "calibration") == pytest.approx(3.9)
    assert few.hear(Fake(same)).broken(LIMITS) == ()


rates = st.sampled_from([0.05, 0.1, 0.25, 0.5])
tables = st.integers(1, 3).flatmap(
    lambda engines: st.lists(
        st.tuples(*[st.floats(0.125, 5, width=32)] * engines), min_size=20, max_size=60
    )
)


@settings(max_examples=60, deadline=None)
@given(rows=tables, rate=rates, views=st.integers(1, 3))
def test_the_decision_keeps_the_bound_on_every_engines_own_scores(
    rows: list[tuple[float, ...]], rate: float, views: int
) -> None:
    """At most r - 1 calibration parts lie above s_(n + 1 - r), r = floor((n + 1) rate)."""
    assume((-(-len(rows) // views) + 1) * rate >= 1)
    engines = [{str(i): row[e] for i, row in enumerate(rows)} for e in range(len(rows[0]))]
    loss = jury().hear(Fake(lambda score, heat: (1.02 * score, heat)))
    before = jury().decision
    parts = {str(i): f"part {i // views}" for i in range(len(rows))}
    settled = settle(engines, parts, [loss.extremes], before, rate)
    count = len(set(parts.values()))
    assert len(settled.part_scores) == count
    most = int((count + 1) * rate + 1e-9) - 1
    for scores in engines:
        rejected = {parts[i] for i, s in scores.items() if s > settled.decision.threshold}
        assert len(rejected) <= most
    assert settled.scores == tuple(sorted(max(row) for row in rows))
    assert settled.part_scores[-1] == settled.scores[-1]
    assert settled.decision.false_alarm_rate == rate
    assert (settled.decision.display_low, settled.decision.display_high) == (0.0, 9.0)
    margin = settled.tolerances.band_relative * settled.decision.threshold
    assert settled.decision.band_low <= settled.decision.threshold - margin
    assert settled.decision.band_high >= settled.decision.threshold + margin


def test_tolerances_contain_what_was_measured_and_are_never_below_fp32() -> None:
    exact = jury().hear(Fake(same)).extremes
    assert measured([exact]) == FP32
    wrong = jury().hear(Fake(lambda score, heat: (1.02 * score, heat + 0.03))).extremes
    found = measured([exact, wrong])
    assert 0.03 <= found.score_relative <= 0.031
    assert 0.03 <= found.band_relative <= 0.031
    assert 0.015 <= found.map_absolute <= 0.03  # relative above 1
