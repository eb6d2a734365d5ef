"""Bootstrap intervals: the metrics of a resample, strata, groups, and how often they cover."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from sanflow.evaluation import metrics
from sanflow.evaluation.bootstrap import (
    WHOLE,
    Estimate,
    Resampled,
    image_measure,
    pixel_measure,
    rates,
    resample,
    share,
)
from sanflow.evaluation.pixels import PixelCounts

from .oracle import aupro
from .test_pixels import scene


@pytest.mark.parametrize("levels", [0, 3])
def test_weighted_ranking_is_that_of_the_repeated_images(levels: int) -> None:
    rng = np.random.default_rng(levels)
    truth = rng.uniform(size=60) < 0.4
    scores = rng.normal(size=60) + truth
    if levels:
        scores = np.round(scores * levels) / levels  # ties
    weights = rng.integers(0, 4, size=(5, 60)).astype(np.float64)
    area, precision = metrics.weighted_ranking(scores, truth, weights)
    for row, a, p in zip(weights.astype(int), area, precision, strict=True):
        s, y = np.repeat(scores, row), np.repeat(truth, row)
        assert a == pytest.approx(roc_auc_score(y, s), abs=1e-12)
        assert p == pytest.approx(average_precision_score(y, s), abs=1e-12)


def test_rates_of_a_confusion_and_of_an_empty_one() -> None:
    values = rates(*(np.array([x, 0.0]) for x in (6.0, 2.0, 3.0, 9.0)))
    assert values["f1"][0] == pytest.approx(12 / 17)
    assert values["precision"][0] == 0.75
    assert values["recall"][0] == pytest.approx(2 / 3)
    assert values["false_alarms"][0] == pytest.approx(2 / 11)
    assert all(np.isnan(v[1]) for v in values.values())


def intervals(labels: list[str], groups: list[str], scores: NDArray[np.float64]) -> Estimate:
    truth = np.array([label != "good" for label in labels])
    measure = image_measure(WHOLE, scores, truth, np.ones(len(labels), np.bool_), 0.5)
    drawn = resample(labels, groups, [measure], 400, seed=1)
    value = metrics.image_auroc(scores, truth)
    found = drawn.estimate(f"{WHOLE}.auroc", value)
    assert found is not None
    assert found.low <= found.value <= found.high
    return found


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # Scores N(0, 1) and N(1, 1): the true AUROC is Phi(1 / sqrt 2) = 0.7602.
    rng = np.random.default_rng(0)
    labels = ["good"] * 40 + ["hole"] * 40
    groups = [str(i) for i in range(80)]
    covered = 0
    for _ in range(100):
        scores = np.concatenate([rng.normal(size=40), rng.normal(1, 1, size=40)])
        found = intervals(labels, groups, scores)
        covered += found.low <= 0.7602 <= found.high
    assert covered >= 87  # Binomial(100, 0.95) is below 87 once in 1000


def test_views_of_one_part_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(2)
    labels = ["good"] * 30 + ["hole"] * 30
    scores = np.concatenate([rng.normal(size=30), rng.normal(1, 1, size=30)])
    parts = [str(i) for i in range(60)]
    alone = intervals(labels, parts, scores)
    copies = labels * 6, np.tile(scores, 6)
    grouped = intervals(copies[0], parts * 6, copies[1])
    ignored = intervals(copies[0], [str(i) for i in range(360)], copies[1])
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.2)
    assert ignored.high - ignored.low < 0.6 * (grouped.high - grouped.low)


def test_resamples_are_stratified_and_repeatable() -> None:
    labels = ["good"] * 7 + ["hole"] * 4 + ["scratch"]
    seen: list[NDArray[np.float64]] = []

    def measure(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        seen.append(weights.copy())
        return {"sum": weights.sum(axis=1)}

    first = resample(labels, [str(i) for i in range(12)], [measure], 250, seed=3)
    again = resample(labels, [str(i) for i in range(12)], [measure], 250, seed=3)
    weights = np.concatenate(seen[: len(seen) // 2])
    assert weights.shape == (250, 12)
    assert (weights[:, :7].sum(axis=1) == 7).all()
    assert (weights[:, 7:11].sum(axis=1) == 4).all()
    assert (weights[:, 11] == 1).all()
    assert len(np.unique(weights, axis=0)) > 200
    assert np.array_equal(first.values["sum"], again.values["sum"])


def test_pixel_metrics_of_a_resample_are_those_of_the_repeated_images() -> None:
    heats, masks = scene(np.random.default_rng(4), 8, 14)
    labels = ["hole" if m.any() else "good" for m in masks]
    counts = PixelCounts()
    for i, (heat, mask) in enumerate(zip(heats, masks, strict=True)):
        counts.add(i, labels[i], heat, mask if mask.any() else None)
    counts.finish()
    measure = pixel_measure(counts, labels, "good")
    weights = np.random.default_rng(5).integers(0, 3, size=(4, 8)).astype(np.float64)
    weights[:, 0] = 1  # a defect in every draw
    values = measure(weights)
    for r, row in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(8), row)
        h, m = [heats[i] for i in drawn], [masks[i] for i in drawn]
        s, y = np.concatenate([x.ravel() for x in h]), np.concatenate([x.ravel() for x in m])
        assert values[f"{WHOLE}.pixel_auroc"][r] == pytest.approx(roc_auc_score(y, s), abs=1e-3)
        assert values[f"{WHOLE}.aupro"][r] == pytest.approx(aupro(h, m), abs=5e-3)
    # Every image once: exactly the metrics of the fine intervals.
    once = measure(np.ones((1, 8)))
    assert once[f"{WHOLE}.pixel_auroc"][0] == pytest.approx(counts.measure().auroc, abs=1e-12)
    assert once["hole.aupro"][0] == pytest.approx(counts.measure().aupro, abs=1e-12)


def test_an_estimate_without_value_or_without_resamples() -> None:
    drawn = Resampled({"x": np.array([np.nan, np.nan])})
    assert drawn.estimate("x", None) is None
    assert drawn.estimate("x", 0.5) == Estimate(0.5, 0.5, 0.5)


def test_no_false_alarm_among_few_parts_proves_little() -> None:
    nothing = share(Estimate(0.0, 0.0, 0.0), 24)
    assert nothing is not None
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert nothing.high == pytest.approx(1 - 0.025 ** (1 / 24))  # (1 - p)^24 = 0.025
    everything = share(Estimate(1.0, 1.0, 1.0), 12)
    assert everything is not None
    assert (everything.low, everything.high) == (pytest.approx(0.025 ** (1 / 12)), 1.0)
    assert share(None, 3) is None
    wide = Estimate(0.5, 0.01, 0.99)
    assert share(wide, 100) == wide, "views of one part have made it wider"


@pytest.mark.parametrize(("parts", "rate"), [(30, 0.02), (100, 0.01), (24, 0.3)])
def test_the_interval_of_a_share_covers_as_often_as_it_says(parts: int, rate: float) -> None:
    hits = np.random.default_rng(0).binomial(parts, rate, 400)
    found = [share(Estimate(h / parts, h / parts, h / parts), parts) for h in hits]
    assert np.mean([e is not None and e.low <= rate <= e.high for e in found]) >= 0.95
