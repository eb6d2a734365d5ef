"""Ranking metrics: of scores by scikit-learn, of weighted scores and of histograms by formula.

Histograms run over intervals of the map value in ascending order, along the last axis; all leading
axes are independent (bootstrap resamples). Every pixel of an interval counts as tied with the
others in it, exactly as equal scores do, so with one interval per distinct value the formulae are
exact. Metrics that do not exist (no defects, say) are None, in arrays NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PRO_LIMIT = 0.3
"""AUPRO@0.3: the largest false-positive rate that the region overlap is integrated to."""


def image_auroc(scores: Floats, defective: Bools) -> float | None:
    """Area under the ROC curve of image scores; None unless both classes are there."""
    if defective.all() or not defective.any():
        return None
    return float(sk.roc_auc_score(defective, scores))


def image_average_precision(scores: Floats, defective: Bools) -> float | None:
    """Average precision of image scores with defects as positives; None as image_auroc."""
    if defective.all() or not defective.any():
        return None
    return float(sk.average_precision_score(defective, scores))


def weighted_ranking(
    scores: Floats, defective: Bools, weights: NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """AUROC and average precision of (N,) scores under each row of (R, N) weights: two (R,)."""
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], defective[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ranked) != 0]))  # one bin per value
    drawn = weights[:, order].astype(np.float64)
    negative = np.add.reduceat(drawn * ~truth, starts, axis=1)
    positive = np.add.reduceat(drawn * truth, starts, axis=1)
    return auroc(negative, positive), average_precision(negative, positive)


def auroc(negative: Floats, positive: Floats) -> Floats:
    """Area under the ROC curve of histograms (..., B): sum_b p_b (N_below + n_b / 2) / (P N)."""
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    return _ratio((positive * below).sum(axis=-1), pairs)


def tied_pairs(negative: Floats, positive: Floats) -> float:
    """Half the share of (normal, defect) pixel pairs in one interval: auroc's largest error."""
    pairs = positive.sum() * negative.sum()
    return float((positive * negative).sum() / 2 / pairs) if pairs else 0.0


def average_precision(negative: Floats, positive: Floats) -> Floats:
    """Average precision of histograms (..., B): sum of recall steps times precision."""
    hits = np.cumsum(positive[..., ::-1], axis=-1)
    alarms = hits + np.cumsum(negative[..., ::-1], axis=-1)
    precision = hits / np.where(alarms > 0, alarms, 1)
    found = (positive[..., ::-1] * precision).sum(axis=-1)
    both = negative.sum(axis=-1) > 0
    return _ratio(found, positive.sum(axis=-1) * both)


def aupro(negative: Floats, overlap: Floats, regions: Floats, limit: float = PRO_LIMIT) -> Floats:
    """Area under mean region overlap against false-positive rate, to `limit`, over `limit`.

    `overlap` (..., B) is the sum of region weights per interval, `regions` (...,) their number.
    Exact integration as in the MVTec AD evaluator: straight lines between the points, the last
    one cut at the limit.
    """
    rate, mean = pro_curve(negative, overlap, regions)
    x0, x1 = rate[..., :-1], rate[..., 1:]
    y0, y1 = mean[..., :-1], mean[..., 1:]
    end = np.minimum(x1, limit)
    width = np.maximum(end - x0, 0)
    slope = (y1 - y0) / np.where(x1 > x0, x1 - x0, 1)
    area = (width * (y0 + slope * width / 2)).sum(axis=-1)
    return np.where(np.isfinite(rate[..., -1]), area / limit, np.nan)


def pro_curve(negative: Floats, overlap: Floats, regions: Floats) -> tuple[Floats, Floats]:
    """False-positive rate and mean region overlap from (0, 0) to (1, 1), both (..., B + 1)."""
    first = np.zeros((*negative.shape[:-1], 1))
    rate = np.concatenate([first, np.cumsum(negative[..., ::-1], axis=-1)], axis=-1)
    mean = np.concatenate([first, np.cumsum(overlap[..., ::-1], axis=-1)], axis=-1)
    return (
        _ratio(rate, negative.sum(axis=-1)[..., None]),
        _ratio(mean, np.asarray(regions)[..., None]),
    )


def aupro_cflow(
    edges: Floats, smallest: float, negative: Floats, filled: Floats, regions: int
) -> float | None:
    """AUPRO as CFLOW-AD's code measures it, for comparison with published numbers only.

    1000 thresholds equally spaced from the largest map value down, holes of regions filled, the
    false-positive rates up to 0.3 stretched to [0, 1] (methods 1.6). `edges` (B,) are the upper
    ends of the intervals.
    """
    if regions == 0 or negative.sum() == 0:
        return None
    largest = float(edges[-1])
    thresholds = largest - np.arange(1000) * (largest - smallest) / 1000
    passed = np.searchsorted(edges, thresholds, side="right")  # intervals not above each threshold
    under = np.concatenate([[0.0], np.cumsum(negative)])[passed]
    rate = (negative.sum() - under) / negative.sum()
    overlap = (filled.sum() - np.concatenate([[0.0], np.cumsum(filled)])[passed]) / regions
    kept = rate <= PRO_LIMIT
    span = float(np.ptp(rate[kept]))
    if span == 0:
        return None
    x, y = (rate[kept] - rate[kept].min()) / span, overlap[kept]
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def as_optional(value: Floats | float) -> float | None:
    """A metric as a float; None for NaN, which means that it does not exist."""
    number = float(value)
    return None if math.isnan(number) else number


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)
