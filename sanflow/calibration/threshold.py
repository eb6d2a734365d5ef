"""A threshold from good parts only, with a false-alarm bound that holds for any score distribution.

Split conformal prediction. Let s_(1) <= ... <= s_(n) be the scores of n calibration parts and let
the verdict be NG exactly when `score > threshold` (a score equal to the threshold is OK). If the
next good part and the calibration parts are exchangeable (made and photographed alike, in no
order that matters) and r = floor((n + 1) alpha) is at least 1, then the order statistic

    threshold = s_(k),   k = n + 1 - r = ceil((n + 1)(1 - alpha))

gives P(next good part is NG) <= r / (n + 1) <= alpha, exactly r / (n + 1) when no two scores are
equal; ties only make false alarms rarer. Where several photographs are known to show one part, the
largest of their scores is the part's: photographs of one part are not exchangeable with those of
the next. This is the marginal guarantee: an average over calibration sets too. For the one set at
hand the long-run false-alarm rate is a random number with distribution Beta(r, k) (ties:
stochastically smaller), and

    P(Beta(r, k) <= u) = P(Binomial(n, u) >= r)

gives the confidence in the bound, and the rate that is not exceeded with a given confidence.
No training package, so that the edge install can show and change a threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.manifest import SMALL_SCORE
from ..errors import CalibrationError, InputError

USUAL_RATE = 0.01
SMALLEST_RATE = 1e-6
ROUNDING = 1e-4
"""Share of its value that a threshold is raised by; see `raised`."""


@dataclass(frozen=True)
class Threshold:
    """A decision boundary (NG is score > value) and what the calibration parts say about it."""

    value: float
    rank: int
    """k: the value is at least s_(k), the k-th smallest calibration score (0: below them all)."""
    parts: int
    """n: the number of calibration parts."""
    false_alarm_rate: float
    """The bound asked for; for a value set by hand, the bound r / (n + 1) it attains."""
    expected_rate: float
    """r / (n + 1): the marginal guarantee attained, at most `false_alarm_rate`."""
    confidence: float
    """Probability, over the draw of the parts, that the long-run rate is <= `false_alarm_rate`."""
    upper_rate: float
    """The long-run false-alarm rate is at most this, with confidence `upper_confidence`."""
    upper_confidence: float
    band_low: float
    """Verdicts of scores in [band_low, band_high] are uncertain; see `uncertain_band`."""
    band_high: float
    band_mirrored: bool
    """True where no order statistic bounds the band above, and its lower half is mirrored."""

    def above(self, score_relative: float = ROUNDING) -> float:
        """The value as a bundle decides with it; see `raised`."""
        return raised(self.value, score_relative)

    def text(self, *, by_hand: bool = False) -> str:
        """The guarantee in words, for people; a value that was set by hand is no part's score."""
        asked = _percent(self.false_alarm_rate) != _percent(self.expected_rate)
        rests = f"score {self.rank} of {self.parts} good parts in order"
        if by_hand:
            rests = f"set by hand, and {self.rank} of {self.parts} good parts do not score more"
        return (
            f"NG above {self.value:.6g}: {rests}. "
            f"A new good part is NG with probability at most {_percent(self.expected_rate)}"
            f"{f' (asked: {_percent(self.false_alarm_rate)})' if asked else ''}, "
            "for parts exchangeable with these. "
            f"For these very parts the long-run rate is within {_percent(self.false_alarm_rate)} "
            f"with confidence {_percent(self.confidence)}, and within "
            f"{_percent(self.upper_rate)} with confidence {_percent(self.upper_confidence)}."
        )


def raised(value: float, score_relative: float = ROUNDING) -> float:
    """A threshold raised by the rounding error of an engine.

    At a calibration part's own score the last bit of an engine's arithmetic would decide that
    part; a threshold just above only lowers the false-alarm rate.
    """
    return value + score_relative * abs(value)


def conformal_threshold(
    scores: ArrayLike,
    false_alarm_rate: float,
    *,
    confidence: float | None = None,
    upper_confidence: float = 0.95,
    score_relative: float = 1e-4,
) -> Threshold:
    """The smallest order statistic of `scores` that keeps false alarms within the rate.

    Without `confidence` the bound is the marginal one. With it, the long-run rate for these very
    parts is also within the bound with at least that probability, which takes more parts.
    `score_relative` is the parity tolerance that the uncertain band must contain.
    Raises CalibrationError when there are too few parts, and says how many are needed.
    """
    ordered = _ordered(scores)
    parts = len(ordered)
    _check_rate(false_alarm_rate)
    if confidence is not None:
        _check_probability("confidence", confidence)
    exceeding = _exceeding(parts, false_alarm_rate, confidence)
    if exceeding < 1:
        raise _too_few(parts, false_alarm_rate, confidence)
    return _describe(
        ordered,
        float(ordered[parts - exceeding]),
        parts + 1 - exceeding,
        false_alarm_rate,
        upper_confidence,
        score_relative,
    )


def threshold_at(
    scores: ArrayLike,
    value: float,
    *,
    upper_confidence: float = 0.95,
    score_relative: float = 1e-4,
) -> Threshold:
    """What the calibration parts say about a threshold that was set by hand.

    With k scores at most `value`, the value is at least s_(k), so s_(k)'s bound holds for it.
    """
    ordered = _ordered(scores)
    if not math.isfinite(value):
        raise InputError(f"threshold {value} is not a finite number")
    rank = int(np.searchsorted(ordered, value, side="right"))
    rate = (len(ordered) + 1 - rank) / (len(ordered) + 1)
    return _describe(ordered, float(value), rank, rate, upper_confidence, score_relative)


def parts_needed(false_alarm_rate: float, confidence: float | None = None) -> int:
    """The fewest calibration parts that can bound false alarms at this rate.

    Marginal: n >= 1/alpha - 1. With confidence c also (1 - alpha)^n <= 1 - c.
    """
    _check_rate(false_alarm_rate)
    needed = math.ceil(1 / _exact(false_alarm_rate)) - 1
    if confidence is not None:
        _check_probability("confidence", confidence)
        estimate = math.ceil(math.log1p(-confidence) / math.log1p(-false_alarm_rate))
        needed = max(needed, estimate)
        # The logarithms may round across a whole number; the exact rule below decides.
        while needed > 1 and _exceeding(needed - 1, false_alarm_rate, confidence) >= 1:
            needed -= 1
        while _exceeding(needed, false_alarm_rate, confidence) < 1:
            needed += 1
    return needed


def usual_rate(parts: int) -> float:
    """The false-alarm rate where none is asked for: 1 %, or the smallest that `parts` can bound."""
    return max(USUAL_RATE, math.ceil(1e4 / (parts + 1)) / 1e4)


def uncertain_band(
    ordered: NDArray[np.float64],
    value: float,
    rank: int,
    *,
    confidence: float = 0.95,
    score_relative: float = 1e-4,
) -> tuple[float, float, bool]:
    """Where the threshold might as well have been: (low, high, mirrored).

    The threshold estimates the score quantile of level p = k / (n + 1). The order statistics
    s_(l) and s_(u) around it hold that quantile with `confidence`, by the binomial distribution:
    P(Binomial(n, p) < l) and P(Binomial(n, p) >= u) are each at most (1 - confidence) / 2.
    With few parts no s_(u) is left above; then the lower half is mirrored, which is a convention
    and not an interval. (With very few no s_(l) is left below either; then s_(1) stands in.)
    Each half is so wide that an engine whose score of every part is within `score_relative` of
    PyTorch's (up to a half) cannot turn a verdict outside the band, at the value raised or not.
    """
    parts = len(ordered)
    rank = max(rank, 1)
    tail = (1 - confidence) / 2
    mass = _binomial(parts, rank / (parts + 1), parts + 1)
    below = np.concatenate([[0.0], np.cumsum(mass)])  # below[j] = P(Binomial < j)
    lower = max(int(np.searchsorted(below, tail, side="right")) - 1, 1)
    upper = int(np.searchsorted(below, 1 - tail, side="left"))
    # A value set by hand lies above s_(k): the band keeps its width and moves along.
    centre = float(ordered[rank - 1])
    under = centre - float(ordered[min(lower, rank) - 1])
    mirrored = upper > parts
    over = under if mirrored else float(ordered[max(upper, rank) - 1]) - centre
    # The farthest score s whose error, score_relative of |s|, reaches the raised value (a tolerance
    # above a half bounds nothing, and the band stays finite).
    decided = (1 + ROUNDING) * abs(value)
    error = score_relative * max(decided, SMALL_SCORE) / (1 - min(score_relative, 0.5))
    margin = decided - abs(value) + error
    return value - max(under, margin), value + max(over, margin), mirrored


def display_range(
    floor: float, peaks: ArrayLike, ceiling: float | None = None
) -> tuple[float, float]:
    """The map values (low, high) drawn with the coldest and the hottest colour.

    `floor` is a usual pixel of a good part, `peaks` the largest pixel of each calibration map: a
    good part's common peak (95 % of them are lower) gets the middle colour. `ceiling` is the
    largest value a map can take, where there is one. The threshold plays no part, so changing it
    does not change the picture.
    """
    common = float(np.quantile(np.asarray(peaks, np.float64), 0.95))
    smallest = 1e-6 * max(abs(floor), 1.0)  # maps of equal pixels must not make an empty range
    high = max(2 * common - floor, floor + smallest)
    if ceiling is not None and ceiling > floor:
        high = min(high, ceiling)
    return floor, high


def _describe(
    ordered: NDArray[np.float64],
    value: float,
    rank: int,
    rate: float,
    upper_confidence: float,
    score_relative: float,
) -> Threshold:
    _check_probability("upper_confidence", upper_confidence)
    parts = len(ordered)
    exceeding = parts + 1 - rank
    low, high, mirrored = uncertain_band(ordered, value, rank, score_relative=score_relative)
    return Threshold(
        value=value,
        rank=rank,
        parts=parts,
        false_alarm_rate=rate,
        expected_rate=exceeding / (parts + 1),
        confidence=_at_least(parts, rate, exceeding),
        upper_rate=_upper_rate(parts, exceeding, upper_confidence),
        upper_confidence=upper_confidence,
        band_low=low,
        band_high=high,
        band_mirrored=mirrored,
    )


def _exceeding(parts: int, rate: float, confidence: float | None) -> int:
    """r = n + 1 - k: the largest count whose order statistic keeps the bound; 0 if none does."""
    exceeding = math.floor((parts + 1) * _exact(rate))
    if confidence is not None:
        while exceeding > 0 and _at_least(parts, rate, exceeding) < confidence:
            exceeding -= 1
    return exceeding


def _too_few(parts: int, rate: float, confidence: float | None) -> CalibrationError:
    claim = f"a false-alarm rate of {rate:g}"
    if confidence is not None:
        claim += f" with confidence {confidence:g}"
    least = 1 / (parts + 1)
    if confidence is not None:
        least = max(least, 1 - (1 - confidence) ** (1 / parts))
    offered = math.ceil(least * 1e4) / 1e4
    return CalibrationError(
        f"{parts} calibration parts cannot bound {claim}: at least "
        f"{parts_needed(rate, confidence)} good parts are needed. Give the calibrate role more "
        f"good parts, or ask for a rate of {offered:g} or more."
    )


def _ordered(scores: ArrayLike) -> NDArray[np.float64]:
    """The scores in ascending order, checked."""
    array = np.asarray(scores, np.float64).reshape(-1)
    if array.size == 0:
        raise CalibrationError(
            "there are no calibration scores; calibrate with good parts that were not trained on"
        )
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise CalibrationError(
            f"{wrong.size} of {array.size} calibration scores are not finite "
            f"(first: number {wrong[0] + 1}, {array[wrong[0]]}); the model cannot be calibrated"
        )
    return np.sort(array)


def _check_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} {value} must be between 0 and 1, both excluded")


def _check_rate(value: float) -> None:
    _check_probability("false_alarm_rate", value)
    if value < SMALLEST_RATE:
        raise InputError(
            f"false_alarm_rate {value} is below one in a million, which takes more parts to bound "
            "than can be photographed; give a larger one"
        )


def _exact(rate: float) -> Fraction:
    """The decimal number a person typed: 100 parts at 0.07 are 7 parts, not 7.000000000000001."""
    return Fraction(repr(float(rate)))


def _binomial(trials: int, probability: float, count: int) -> NDArray[np.float64]:
    """P(Binomial(trials, probability) = j) for j = 0..count - 1."""
    hits = np.arange(count)
    if probability >= 1:
        return np.where(hits == trials, 1.0, 0.0)
    ratios = (trials - hits[:-1]) / (hits[:-1] + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    log_hit = math.log(probability) if probability > 0 else -math.inf
    logarithm = log_choose + (trials - hits) * math.log1p(-probability)
    logarithm[1:] += hits[1:] * log_hit
    return np.asarray(np.exp(logarithm), np.float64)


def _at_least(trials: int, probability: float, hits: int) -> float:
    """P(Binomial(trials, probability) >= hits), which is P(Beta(hits, trials + 1 - hits) <= p)."""
    if hits > trials:
        return 1.0 if probability >= 1 else 0.0
    # Only the shorter tail is summed: it is the more exact one, and there is less of it.
    if hits <= trials // 2:
        total = 1 - _binomial(trials, probability, hits).sum() if hits else 1.0
    else:
        total = _binomial(trials, 1 - probability, trials - hits + 1).sum()
    return float(np.clip(total, 0.0, 1.0))


def _upper_rate(parts: int, exceeding: int, confidence: float) -> float:
    """u with P(Binomial(parts, u) >= exceeding) = confidence, by bisection."""
    if exceeding > parts:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _at_least(parts, middle, exceeding) < confidence:
            low = middle
        else:
            high = middle
    return high


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
