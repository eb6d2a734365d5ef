"""Golden samples: enough of them, both kinds, the same every time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow import imaging
from sanflow.bundle import manifest
from sanflow.data.config import SynthConfig
from sanflow.errors import InputError
from sanflow.export.goldens import make_goldens

Image = NDArray[np.uint8]


def judge(image: Image) -> tuple[float, NDArray[np.float32]]:
    """A stand-in for PyTorch."""
    heat = image.mean(axis=2, dtype=np.float32)
    return float(heat.std()), heat


def parts(count: int) -> list[Image]:
    """Smooth parts, each of its own brightness."""
    ramp = np.linspace(0, 40, 48, dtype=np.uint8)
    return [np.stack([ramp + 12 * i] * 3, axis=-1)[None].repeat(32, 0) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 12])
def test_there_are_enough_whatever_the_number_of_good_parts(count: int) -> None:
    goldens = make_goldens(parts(count), SynthConfig(), judge)
    assert len(goldens.images) >= manifest.MIN_GOLDENS
    assert goldens.kinds.count("good") == min(count, 6)
    assert goldens.kinds.count("anomaly") >= 6
    assert [entry.kind for entry in goldens.entries()] == list(goldens.kinds)


def test_good_ones_span_the_given_order_and_anomalies_differ_from_every_part() -> None:
    good = parts(12)
    goldens = make_goldens(good, SynthConfig(), judge)
    np.testing.assert_array_equal(goldens.images[0], good[0])
    np.testing.assert_array_equal(goldens.images[5], good[-1])
    for image in goldens.images[6:]:
        assert not any(np.array_equal(image, part) for part in good)
    assert len({image.tobytes() for image in goldens.images}) == len(goldens.images)


def test_anomalies_are_made_even_for_a_run_that_trained_without_them() -> None:
    off = SynthConfig(enabled=False, quotas=(4, 0, 0, 0))
    assert make_goldens(parts(3), off, judge).kinds.count("anomaly") == 6


def test_they_are_the_same_every_time_and_survive_their_files() -> None:
    one, two = (make_goldens(parts(6), SynthConfig(), judge) for _ in range(2))
    assert one.contents() == two.contents()
    files = one.contents()
    for index, entry in enumerate(one.entries()):
        assert judge(imaging.decode(files[entry.image]))[0] == entry.score
        assert entry.image == manifest.golden_name(index)
    maps = np.load(io.BytesIO(files[manifest.MAPS]), allow_pickle=False)
    assert maps.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(maps, [judge(image)[1] for image in one.images])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_without_finite_scores_is_refused(bad: float) -> None:
    def broken(image: Image) -> tuple[float, NDArray[np.float32]]:
        return bad, judge(image)[1]

    with pytest.raises(InputError, match="not finite; train it again"):
        make_goldens(parts(2), SynthConfig(), broken)
