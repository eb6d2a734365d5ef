"""The decision and the tolerances of a bundle, from what its own engines say.

In FP32 an engine's scores are PyTorch's up to rounding, and PyTorch's stand in the manifest. In
lower precision the graph is another function of the image: the bound on false alarms is then that
of the graph's own scores of all calibration parts. Where several engines read the bundle, each part
counts with the largest of its scores: that, too, is a function of the image alone, so the order
statistic bounds the false alarms of every one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..bundle import Decision
from ..bundle.manifest import Tolerances
from ..calibration.calibrate import largest
from ..calibration.threshold import conformal_threshold
from .gate import Extremes

FP32 = Tolerances(score_relative=1e-4, band_relative=1e-4, map_absolute=1e-3)
MARGIN = 1.5
"""Tolerances over the largest error seen: other parts err a little more."""


@dataclass(frozen=True)
class Settled:
    """What goes into the manifest."""

    scores: tuple[float, ...]
    """Of all calibration images, ascending."""
    part_scores: tuple[float, ...]
    """The largest of each calibration part, ascending."""
    decision: Decision
    tolerances: Tolerances


def settle(
    scores: Sequence[Mapping[str, float]],
    parts: Mapping[str, str],
    extremes: Sequence[Extremes],
    decision: Decision,
    rate: float,
) -> Settled:
    """The same false-alarm rate from the engines' own scores, with tolerances that hold them.

    `scores` are, per engine, those of all calibration images by name, `parts` what these show;
    `decision` is PyTorch's, whose display range stays.
    """
    own = {name: max(each[name] for each in scores) for name in scores[0]}
    tolerances = measured(extremes)
    of_parts = largest(own, parts)
    chosen = conformal_threshold(of_parts, rate, score_relative=tolerances.band_relative)
    moved = replace(
        decision,
        threshold=chosen.above(),
        false_alarm_rate=rate,
        band_low=chosen.band_low,
        band_high=chosen.band_high,
    )
    return Settled(tuple(sorted(own.values())), of_parts, moved, tolerances)


def measured(extremes: Sequence[Extremes]) -> Tolerances:
    """Tolerances that contain these errors with a margin, never below those of FP32."""
    return Tolerances(
        score_relative=_contain(FP32.score_relative, [e.score_relative for e in extremes]),
        band_relative=_contain(FP32.band_relative, [e.upper_relative for e in extremes]),
        map_absolute=_contain(FP32.map_absolute, [e.map_absolute for e in extremes]),
    )


def _contain(least: float, errors: Sequence[float]) -> float:
    """The margin over the largest, rounded up to two digits: what people read is what holds."""
    value = MARGIN * max(errors)
    if value <= least:
        return least
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")
