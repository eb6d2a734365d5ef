"""What a comparison says of two judges whose differences are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from sanflow.bundle import Decision, Graph
from sanflow.bundle.manifest import Tolerances
from sanflow.errors import InputError
from sanflow.runtime import Engine, TensorSpec
from sanflow.runtime.comparison import Case, Comparison, compare, rank_correlation

GRAPH = Graph(
    precision="fp16",
    regions={"extractor": "fp16", "likelihood": "fp32"},
    activation=None,
    files=("model.fp16.onnx",),
    scores=(),
    part_scores=(),
    decision=Decision(1.0, 0.1, 0.99, 1.01, 0.0, 2.0),
    tolerances=Tolerances(score_relative=1e-4, band_relative=1e-4, map_absolute=1e-3),
)
SIDE = 4


class Scripted(Engine):
    """Answers each image by the number in its first pixel."""

    name = "scripted"

    def __init__(
        self,
        scores: list[float],
        heat: Callable[[int], Any],
        batch: int = 1,
        graph: Graph = GRAPH,
    ) -> None:
        super().__init__(
            "1.0",
            1,
            (TensorSpec("image", "uint8", (batch, SIDE, SIDE, 3)),),
            (
                TensorSpec("score", "float32", (batch,)),
                TensorSpec("map", "float32", (batch, SIDE, SIDE)),
            ),
        )
        self.scores, self.heat, self.graph = scores, heat, graph

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        numbers = images[:, 0, 0, 0].tolist()
        maps = [np.full((SIDE, SIDE), self.heat(number), np.float32) for number in numbers]
        return {"score": np.float32([self.scores[n] for n in numbers]), "map": np.stack(maps)}

    def _release(self) -> None:
        pass


def judge(
    wanted: list[float],
    found: list[float],
    *,
    wanted_map: float = 0.5,
    found_map: Callable[[int], Any] = lambda number: 0.5,
    batch: int = 1,
    maps: bool = True,
    known: bool = True,
    graph: Graph = GRAPH,
) -> Comparison:
    """Compare an engine that scores `found` where PyTorch scores `wanted`."""
    heat = np.full((SIDE, SIDE), wanted_map, np.float32)
    cases = [
        Case(
            f"{i}.png", np.full((SIDE, SIDE, 3), i, np.uint8), score, heat if maps else None, known
        )
        for i, score in enumerate(wanted)
    ]
    return compare(Scripted(found, found_map, batch, graph), cases, "images")


def test_equal_judges_pass_with_zero_errors() -> None:
    c = judge([0.5, 0.75, 1.5], [0.5, 0.75, 1.5])
    assert c.passed
    assert (c.score_relative.max, c.score_relative.mean, c.score_relative.p99) == (0, 0, 0)
    assert c.map_absolute is not None
    assert c.map_absolute.max == 0
    assert c.rank_correlation == pytest.approx(1)
    assert (c.engine, c.version, c.source, c.images) == ("scripted", "1.0", "images", 3)
    assert c.precision == "fp16"


def test_score_errors_are_relative_and_the_worst_image_is_named() -> None:
    c = judge([0.5, 2.0, 4.0], [0.5, 2.0625, 4.0625])
    assert c.score_relative.max == pytest.approx(0.03125)
    assert c.score_relative.mean == pytest.approx((0.03125 + 0.015625) / 3)
    assert c.worst == "1.png"
    assert c.failures == ("relative score error 3.12e-02 of 1.png exceeds 0.0001",)


def test_tiny_scores_are_not_held_to_more_digits_than_float32_has() -> None:
    assert judge([1e-4, 0.5], [1e-4 + 2e-7, 0.5]).passed
    assert not judge([1e-4, 0.5], [1e-4 + 2e-5, 0.5]).passed


def test_map_errors_are_absolute_up_to_one_and_relative_above() -> None:
    c = judge([0.5], [0.5], found_map=lambda _: 0.5 + 2**-9)
    assert c.map_absolute is not None
    assert c.map_absolute.max == c.map_absolute.mean == c.map_absolute.p99 == 2**-9
    assert c.failures == ("map error 1.95e-03 exceeds 0.001",)
    c = judge([0.5], [0.5], wanted_map=1024.0, found_map=lambda _: 1024.5)
    assert c.map_absolute is not None
    assert c.map_absolute.max == pytest.approx(0.5 / 1024)
    assert c.passed


def test_one_bad_pixel_is_not_averaged_away() -> None:
    heat = np.full((SIDE, SIDE), 0.5, np.float32)
    heat[3, 1] = 0.75
    c = judge([0.5], [0.5], found_map=lambda _: heat)
    assert c.map_absolute is not None
    assert c.map_absolute.max == 0.25
    assert c.map_absolute.mean == pytest.approx(0.25 / 16)
    assert not c.passed


def test_without_reference_maps_only_scores_are_compared() -> None:
    c = judge([0.5], [0.5], found_map=lambda _: 100.0, maps=False)
    assert c.map_absolute is None
    assert c.passed


def test_a_flip_outside_the_band_fails_and_names_image_and_scores() -> None:
    c = judge([0.5, 0.98], [0.5, 1.02])
    (flip,) = c.flips
    assert (flip.image, flip.in_band) == ("1.png", False)
    assert c.flips_outside == (flip,)
    assert c.failures[0] == (
        "1 verdicts flip outside the uncertain band: 1.png (PyTorch 0.98, engine 1.02)"
    )


def test_a_flip_inside_the_band_is_counted_and_forgiven() -> None:
    c = judge([0.5, 1.00001], [0.5, 0.99999])
    assert [flip.in_band for flip in c.flips] == [True]
    assert not c.flips_outside
    assert c.passed


def test_a_score_equal_to_the_threshold_is_ok_on_both_sides() -> None:
    assert not judge([1.0], [1.0]).flips
    assert judge([1.0], [1.0 + 1e-6]).flips[0].in_band


def test_new_images_beyond_a_measured_tolerance_are_counted_and_their_verdicts_decide() -> None:
    wanted, found = [0.5, 0.75, 1.5], [0.51, 0.75, 1.6]
    c = judge(wanted, found, found_map=lambda n: 0.7 if n == 2 else 0.5, known=False)
    assert c.passed
    assert c.beyond == 2
    assert (c.worst, c.score_relative.max) == ("2.png", pytest.approx(0.1 / 1.5))
    assert not judge(wanted, found).passed  # the export's own parts
    exact = replace(GRAPH, precision="fp32", regions={"extractor": "fp32"})
    c = judge(wanted, found, known=False, graph=exact)
    assert (c.passed, c.beyond) == (False, 0)
    assert not judge([0.98], [1.02], known=False).passed  # a flip


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_infinite_error(bad: float, known: bool) -> None:
    c = judge([0.5, 0.75], [0.5, bad], known=known)
    assert c.score_relative.max == np.inf
    assert c.worst == "1.png"
    assert c.rank_correlation is None
    assert not c.passed
    c = judge([0.5, 0.75], [0.5, 0.75], found_map=lambda n: bad if n else 0.5, known=known)
    assert c.map_absolute is not None
    assert c.map_absolute.max == np.inf
    assert not c.passed


def test_many_failures_are_counted_not_listed() -> None:
    c = judge([0.5] * 20, [1.5] * 20)
    assert "20 verdicts flip" in c.failures[0]
    assert "and 15 more" in c.failures[0]


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_batches_are_filled_and_the_last_one_padded(batch: int) -> None:
    scores = [0.1 * i for i in range(7)]
    steps: list[int] = []
    heat = np.full((SIDE, SIDE), 0.5, np.float32)
    cases = (
        Case(str(i), np.full((SIDE, SIDE, 3), i, np.uint8), float(np.float32(s)), heat)
        for i, s in enumerate(scores)
    )
    engine = Scripted(scores, lambda _: 0.5, batch)
    c = compare(engine, cases, "golden", steps.append)
    assert c.passed
    assert c.score_relative.max == 0
    assert c.images == sum(steps) == 7
    assert max(steps) <= batch


def test_no_image_is_an_error_not_a_pass() -> None:
    with pytest.raises(InputError, match="no image to compare on images"):
        judge([], [])


numbers = st.floats(-5, 5, width=16)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=40))
def test_rank_correlation_is_spearmans(pairs: list[tuple[float, float]]) -> None:
    one, two = np.array(pairs).T
    found = rank_correlation(one, two)
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(one, two).statistic, abs=1e-12)
