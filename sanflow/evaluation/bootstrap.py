"""Bootstrap intervals: what the metrics would have been with other parts of the same kinds.

Stratified by label, so that every resample has the test set's number of parts of each kind. Images
of one group (several views of a part) are drawn together: they are not independent, and drawing
them one by one would make the intervals too narrow. A resample is a row of image weights, and all
metrics are computed from the same resamples. A share of parts has the exact binomial interval as
well: no resample of 0 false alarms among 24 parts has one, and yet 14 % would be no wonder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from . import metrics
from .metrics import Bools, Floats
from .pixels import PixelCounts, Row

WHOLE = ""
"""Prefix of the names of metrics over all kinds; no label is empty."""

CHUNK = 100
"""Resamples at a time: bounds the memory."""


@dataclass(frozen=True)
class Estimate:
    """A metric over the test images and its interval of 95 % of the bootstrap resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """Metrics of each resample, by name: arrays (R,), NaN where a metric does not exist."""

    values: dict[str, Floats]

    def estimate(self, name: str, value: float | None) -> Estimate | None:
        """The percentile interval around the value; None where there is no value."""
        if value is None:
            return None
        drawn = self.values[name]
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size == 0:
            return Estimate(value, value, value)
        low, high = np.quantile(drawn, [0.025, 0.975])
        # Coarse histograms and unlucky draws must not leave the value outside its interval.
        return Estimate(value, min(float(low), value), max(float(high), value))


def share(estimate: Estimate | None, parts: int) -> Estimate | None:
    """The estimate of a share of so many independent parts, its interval at least the exact one.

    That of Clopper and Pearson, 95 %; where several images show a part, the parts are counted.
    """
    if estimate is None or parts < 1:
        return estimate
    hits = estimate.value * parts
    low = float(beta.ppf(0.025, hits, parts - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, parts - hits)) if hits < parts else 1.0
    return Estimate(estimate.value, min(low, estimate.low), max(high, estimate.high))


Measure = Callable[[Floats], dict[str, Floats]]
"""From image weights (R, N) to metrics by name, each (R,)."""


def resample(
    labels: Sequence[str], groups: Sequence[str], measures: Sequence[Measure], count: int, seed: int
) -> Resampled:
    """Apply the measures, (R, N) weights -> arrays (R,) by name, to `count` resamples."""
    collected: dict[str, list[Floats]] = {}
    for weights in _weights(labels, groups, count, np.random.default_rng(seed)):
        for measure in measures:
            for name, values in measure(weights).items():
                collected.setdefault(name, []).append(values)
    return Resampled({name: np.concatenate(parts) for name, parts in collected.items()})


def image_measure(
    name: str, scores: Floats, defective: Bools, chosen: Bools, threshold: float | None
) -> Measure:
    """AUROC, average precision and, with a threshold, the rates at it, over the chosen images."""

    def measure(weights: Floats) -> dict[str, Floats]:
        drawn, s, y = weights[:, chosen], scores[chosen], defective[chosen]
        area, precision = metrics.weighted_ranking(s, y, drawn)
        values = {f"{name}.auroc": area, f"{name}.average_precision": precision}
        if threshold is not None:
            alarm = s > threshold
            tp, fp, fn, tn = (
                drawn @ part.astype(np.float64)
                for part in (alarm & y, alarm & ~y, ~alarm & y, ~alarm & ~y)
            )
            values |= {f"{name}.{key}": v for key, v in rates(tp, fp, fn, tn).items()}
        return values

    return measure


def rates(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> dict[str, Floats]:
    """F1, precision, recall (share of defects found) and false-alarm rate of counts (...,)."""

    def ratio(top: Floats, bottom: Floats) -> Floats:
        return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)

    return {
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "false_alarms": ratio(fp, fp + tn),
    }


def pixel_measure(counts: PixelCounts, labels: Sequence[str], good: str) -> Measure:
    """Pixel AUROC, average precision and AUPRO: of all images, and of each kind with the good ones.

    Works on the coarse histograms; each metric is shifted by what coarsening does to it on the
    whole test set.
    """
    rows = sorted(counts.rows, key=lambda row: row.index)
    kinds = sorted({labels[row.index] for row in rows})
    size = len(rows[0].normal) if rows else 0
    by_kind = {
        kind: _stack([row for row in rows if labels[row.index] == kind], size) for kind in kinds
    }
    sets = {WHOLE: kinds} | {kind: sorted({good, kind} & set(kinds)) for kind in kinds}
    offset: dict[str, float] = {}

    def measure(weights: Floats) -> dict[str, Floats]:
        sums = {
            kind: tuple(weights[:, index] @ part for part in parts)
            for kind, (index, *parts) in by_kind.items()
        }
        values: dict[str, Floats] = {}
        for name, members in sets.items():
            normal, defect, overlap, regions = (
                sum((sums[kind][i] for kind in members), np.zeros(())) for i in range(4)
            )
            values[f"{name}.pixel_auroc"] = metrics.auroc(normal, defect)
            values[f"{name}.pixel_average_precision"] = metrics.average_precision(normal, defect)
            values[f"{name}.aupro"] = metrics.aupro(normal, overlap, regions)
        return {key: np.clip(v + offset.get(key, 0.0), 0, 1) for key, v in values.items()}

    coarse = measure(np.ones((1, len(labels)))) if rows else {}
    for name, members in sets.items():
        fine = counts.measure(set(members))
        for key, value in (
            ("pixel_auroc", fine.auroc),
            ("pixel_average_precision", fine.average_precision),
            ("aupro", fine.aupro),
        ):
            if value is not None:
                offset[f"{name}.{key}"] = value - float(coarse[f"{name}.{key}"][0])
    return measure


def _weights(
    labels: Sequence[str], groups: Sequence[str], count: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Image weights (r, N) of `count` resamples, CHUNK at a time."""
    names, member = np.asarray(labels), np.asarray(groups)
    strata = []
    for label in sorted(set(labels)):
        index = np.flatnonzero(names == label)
        distinct, group_of = np.unique(member[index], return_inverse=True)
        strata.append((index, len(distinct), group_of))
    for start in range(0, count, CHUNK):
        rows = min(CHUNK, count - start)
        weights = np.zeros((rows, len(labels)))
        for index, size, group_of in strata:
            draws = rng.multinomial(size, np.full(size, 1 / size), size=rows)
            weights[:, index] = draws[:, group_of]
        yield weights


def _stack(rows: list[Row], size: int) -> tuple[NDArray[np.intp], ...]:
    """Image indices, and matrices (n, B) normal, defect, overlap, and regions (n,)."""
    empty = np.zeros(size, np.float32)
    return (
        np.array([row.index for row in rows], np.intp),
        np.stack([row.normal for row in rows]),
        np.stack([empty if row.defect is None else row.defect for row in rows]),
        np.stack([empty if row.overlap is None else row.overlap for row in rows]),
        np.array([row.regions for row in rows], np.float32),
    )
