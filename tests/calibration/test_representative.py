"""Parts that say different things come first, the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest

from sanflow.calibration.representative import NEEDED, SETTLED, choose, enough
from sanflow.errors import InputError


def test_one_of_each_kind_comes_first() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(5), [60, 3, 20, 1, 16]))
    centres = 50 * rng.normal(size=(5, 12))
    features = centres[kinds] + rng.normal(size=(100, 12))
    assert sorted(kinds[choose(features, 5)]) == [0, 1, 2, 3, 4]


def test_each_next_part_is_the_farthest_from_all_before() -> None:
    features = np.random.default_rng(1).normal(size=(40, 6))
    chosen = choose(features, 12)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    for count in range(1, 12):
        nearest = distances[:, chosen[:count]].min(axis=1)
        assert nearest[chosen[count]] == pytest.approx(nearest.max())


def test_a_prefix_is_what_a_smaller_count_gives() -> None:
    features = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    assert choose(features, 7).tolist() == choose(features, 20).tolist()[:7]


def test_all_parts_once_where_there_are_fewer() -> None:
    features = np.zeros((6, 3))
    assert sorted(choose(features, 50).tolist()) == list(range(6))


def test_the_first_is_the_most_typical() -> None:
    features = np.array([[0.0], [1.0], [2.1], [9.0], [4.0]])
    assert choose(features, 1).tolist() == [4]


@pytest.mark.parametrize(
    ("features", "count"),
    [(np.zeros(3), 1), (np.zeros((0, 3)), 1), (np.zeros((2, 2)), 0), (np.full((2, 2), np.nan), 1)],
)
def test_what_cannot_be_chosen_from_is_refused(features: np.ndarray, count: int) -> None:
    with pytest.raises(InputError, match="features"):
        choose(features, count)


def test_too_few_and_unsettled_parts_are_said() -> None:
    assert enough(NEEDED, SETTLED) is None
    assert f"{NEEDED - 1} images" in str(enough(NEEDED - 1, 0.0))
    assert "grew by 30%" in str(enough(NEEDED, 0.3))
