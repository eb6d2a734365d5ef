"""The conformal threshold: its guarantee by simulation, its numbers against SciPy, its refusals."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from sanflow.calibration.threshold import (
    conformal_threshold,
    display_range,
    parts_needed,
    threshold_at,
    uncertain_band,
    usual_rate,
)
from sanflow.errors import CalibrationError, InputError

RESAMPLES = 1000
SIMULATED = [(19, 0.05), (114, 0.01), (500, 0.1)]
SIZES = [(19, 0.05), (99, 0.01), (114, 0.01), (150, 0.02), (299, 0.01), (500, 0.1)]
DRAWS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "heavy": lambda rng, n: rng.standard_cauchy(n),
    "saturated": lambda rng, n: 3 - np.exp(-rng.exponential(4, n)),
    "ties": lambda rng, n: rng.integers(0, 12, n).astype(np.float64),
}


@pytest.mark.parametrize(
    ("draw", "parts", "rate"),
    [("saturated", *size) for size in SIMULATED] + [("heavy", 99, 0.01), ("ties", 99, 0.01)],
)
def test_false_alarms_over_resamples_stay_inside_the_bound(
    draw: str, parts: int, rate: float
) -> None:
    rng = np.random.default_rng([parts, len(draw)])
    alarms = 0
    for _ in range(RESAMPLES):
        scores = DRAWS[draw](rng, parts + 1)
        threshold = conformal_threshold(scores[:-1], rate)
        alarms += int(scores[-1] > threshold.value)
    expected = threshold.expected_rate
    assert expected <= rate
    # The count is Binomial(1000, expected) without ties, and stochastically less with them.
    assert alarms <= stats.binom.ppf(1 - 1e-4, RESAMPLES, expected)
    if draw != "ties":
        assert alarms >= stats.binom.ppf(1e-4, RESAMPLES, expected)


@pytest.mark.parametrize(
    ("parts", "rate", "asked"),
    [(*size, None) for size in SIMULATED] + [(299, 0.01, 0.9)],
)
def test_confidence_is_the_share_of_calibration_sets_inside_the_bound(
    parts: int, rate: float, asked: float | None
) -> None:
    rng = np.random.default_rng(parts)
    inside = inside_upper = 0
    for _ in range(RESAMPLES):
        threshold = conformal_threshold(rng.uniform(size=parts), rate, confidence=asked)
        long_run = 1 - threshold.value  # scores are uniform: the true false-alarm rate
        inside += long_run <= rate
        inside_upper += long_run <= threshold.upper_rate
    for count, share in ((inside, threshold.confidence), (inside_upper, 0.95)):
        low, high = stats.binom.ppf([1e-4, 1 - 1e-4], RESAMPLES, share)
        assert low <= count <= high
    if asked is not None:
        assert threshold.confidence >= asked


@pytest.mark.parametrize(("parts", "rate"), SIZES)
def test_numbers_agree_with_the_beta_distribution(parts: int, rate: float) -> None:
    threshold = conformal_threshold(np.arange(parts), rate)
    exceeding = parts + 1 - threshold.rank
    assert threshold.rank == math.ceil((parts + 1) * (1 - rate) - 1e-9)
    beta = stats.beta(exceeding, threshold.rank)
    assert threshold.confidence == pytest.approx(beta.cdf(rate), abs=1e-12)
    assert threshold.upper_rate == pytest.approx(beta.ppf(0.95), abs=1e-9)


def test_a_score_equal_to_the_threshold_is_no_alarm() -> None:
    scores = np.array([1.0, 2.0, 2.0, 2.0, 3.0, 9.0, 9.0, 9.0, 9.0])
    threshold = conformal_threshold(scores, 0.5)
    assert threshold.value == 3.0
    assert threshold.rank == 5
    assert np.count_nonzero(scores > threshold.value) == 4
    assert conformal_threshold(scores, 0.1).value == 9.0
    assert not np.any(scores > 9.0)


def test_the_decimal_that_was_typed_counts_not_its_binary_neighbour() -> None:
    # 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996 in binary.
    assert conformal_threshold(np.arange(99), 0.07).rank == 93
    assert conformal_threshold(np.arange(99), 0.29).rank == 71
    assert parts_needed(0.1) == 9
    assert parts_needed(0.001) == 999


@pytest.mark.parametrize("confidence", [None, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("rate", [0.3, 0.1, 0.05, 0.01, 0.003])
def test_parts_needed_is_the_fewest_that_are_accepted(
    rate: float, confidence: float | None
) -> None:
    needed = parts_needed(rate, confidence)
    accepted = conformal_threshold(np.arange(needed), rate, confidence=confidence)
    assert accepted.expected_rate <= rate
    assert confidence is None or accepted.confidence >= confidence
    if needed > 1:
        with pytest.raises(CalibrationError, match=f"at least {needed} good parts are needed"):
            conformal_threshold(np.arange(needed - 1), rate, confidence=confidence)


def test_too_few_parts_are_offered_a_rate_that_then_works() -> None:
    with pytest.raises(CalibrationError, match="40 calibration parts cannot bound") as error:
        conformal_threshold(np.arange(40), 0.01)
    offered = float(str(error.value).rsplit("a rate of ", 1)[1].split()[0])
    assert conformal_threshold(np.arange(40), offered).rank == 40


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        conformal_threshold(np.arange(100), rate)


@pytest.mark.parametrize("rate", [5e-324, 1e-20, 9e-7])
def test_a_rate_that_no_number_of_parts_bounds_is_refused(rate: float) -> None:
    for confidence in (None, 0.95):
        with pytest.raises(InputError, match="below one in a million"):
            conformal_threshold([1.0, 2.0], rate, confidence=confidence)


def test_unusable_scores_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no calibration scores"):
        conformal_threshold([], 0.1)
    with pytest.raises(CalibrationError, match=r"1 of 3 .* number 2, nan"):
        conformal_threshold([1.0, math.nan, 2.0], 0.5)
    with pytest.raises(InputError, match="not a finite number"):
        threshold_at([1.0, 2.0], math.inf)


scores_strategy = st.lists(
    st.floats(-1e6, 1e6, allow_nan=False, width=32), min_size=1, max_size=300
).map(np.array)


@settings(max_examples=150, deadline=None)
@given(scores_strategy, st.integers(2, 999), st.randoms())
def test_properties(scores: NDArray[np.float64], per_mille: int, random: object) -> None:
    rate = per_mille / 1000
    if len(scores) < parts_needed(rate):
        return
    threshold = conformal_threshold(scores, rate)
    # The value is a calibration score, and at most r - 1 of them lie above it.
    assert threshold.value in scores
    assert np.count_nonzero(scores > threshold.value) <= threshold.parts - threshold.rank
    assert threshold.expected_rate <= rate + 1e-12
    # Order does not matter.
    shuffled = np.random.default_rng(0).permutation(scores)
    assert conformal_threshold(shuffled, rate) == threshold
    # A smaller rate never lowers the threshold.
    if len(scores) >= parts_needed(rate / 2):
        assert conformal_threshold(scores, rate / 2).value >= threshold.value
    # The band holds the threshold and the parity tolerance on both sides.
    margin = 1e-4 * abs(threshold.value)
    assert threshold.band_low + margin <= threshold.value <= threshold.band_high - margin
    assert threshold.confidence <= 1
    assert threshold.upper_rate <= 1
    # Setting the same value by hand claims at least as much (ties may count as more).
    by_hand = threshold_at(scores, threshold.value)
    assert by_hand.rank >= threshold.rank
    assert by_hand.expected_rate <= threshold.expected_rate


def test_a_threshold_set_by_hand_gets_the_bound_it_attains() -> None:
    scores = np.arange(1.0, 100.0)  # 99 parts: 1..99
    assert threshold_at(scores, 50.5).rank == 50
    assert threshold_at(scores, 50.5).expected_rate == pytest.approx(0.5)
    above_all = threshold_at(scores, 1e6)
    assert above_all.rank == 99
    assert above_all.expected_rate == pytest.approx(0.01)
    assert above_all.band_low < 1e6 < above_all.band_high
    below_all = threshold_at(scores, -1.0)
    assert below_all.rank == 0
    assert below_all.expected_rate == 1.0
    assert below_all.upper_rate == 1.0


def test_the_band_covers_the_quantile_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(RESAMPLES):
        ordered = np.sort(rng.uniform(size=400))
        threshold = conformal_threshold(ordered, 0.05)
        low, high, mirrored = uncertain_band(
            ordered, threshold.value, threshold.rank, score_relative=0
        )
        assert not mirrored
        covered += low <= threshold.rank / 401 <= high
    assert covered >= stats.binom.ppf(1e-4, RESAMPLES, 0.95)


def test_with_few_parts_the_upper_half_of_the_band_is_mirrored() -> None:
    threshold = conformal_threshold(np.arange(1.0, 100.0), 0.01)
    assert threshold.value == 99
    assert threshold.band_mirrored
    assert threshold.band_high - 99 == pytest.approx(99 - threshold.band_low)
    assert threshold.band_low == 96  # P(Poisson(1) >= 4) = 0.019, P(>= 3) = 0.08


@given(
    value=st.floats(-10, 10),
    digits=st.floats(-5, -0.5),
    reach=st.floats(0, 1),
    side=st.sampled_from([-1, 1]),
    raised=st.booleans(),
)
def test_the_band_holds_every_score_that_the_parity_tolerance_can_turn(
    value: float, digits: float, reach: float, side: int, raised: bool
) -> None:
    """Scores about the threshold, up to the farthest, move towards it by all of the tolerance."""
    tolerance = 10**digits
    threshold = conformal_threshold(np.full(200, value), 0.01, score_relative=tolerance)
    decided = threshold.above() if raised else threshold.value
    farthest = tolerance * max(abs(decided), 0.01) / (1 - tolerance)
    for share in (reach, 0.999):
        score = decided + side * share * farthest
        found = score - side * tolerance * max(abs(score), 0.01)
        if (score > decided) != (found > decided):
            slack = 1e-12 * max(abs(value), 1)
            assert threshold.band_low - slack <= score <= threshold.band_high + slack


def test_the_band_is_no_wider_than_the_parity_tolerance_asks() -> None:
    threshold = conformal_threshold(np.full(200, 2.5), 0.01, score_relative=0.04)
    assert threshold.band_high == pytest.approx(2.5 / 0.96, rel=2e-4)
    assert threshold.band_low == pytest.approx(2 * 2.5 - threshold.band_high)


def test_the_words_name_the_rate_the_count_and_both_confidences() -> None:
    words = conformal_threshold(np.arange(1.0, 300.0), 0.01, confidence=0.95).text()
    for part in ("NG above 299", "299 of 299", "0.333 %", "1 %", "95 %", "exchangeable"):
        assert part in words


def test_the_words_name_no_rate_twice() -> None:
    """The usual rate of two parts is 33.34 %, what they bound is a third: 33.3 % in words."""
    assert "asked" not in conformal_threshold([1.0, 2.0], usual_rate(2)).text()
    assert "(asked: 40 %)" in conformal_threshold([1.0, 2.0], 0.4).text()


def test_display_range() -> None:
    peaks = np.linspace(1, 2, 101)
    assert display_range(0.5, peaks) == (0.5, pytest.approx(2 * 1.95 - 0.5))
    assert display_range(0.5, peaks, ceiling=3.0) == (0.5, 3.0)
    low, high = display_range(2.0, [1.0, 1.0])
    assert low < high  # never an empty range


def test_no_training_package_is_imported() -> None:
    code = (
        "import sys, sanflow.calibration.threshold\n"
        "print([m for m in ('torch', 'scipy', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
