"""Noise that is smooth, bounded and 0 at every cell's corner, and blots of every grain."""

from __future__ import annotations

import numpy as np

from sanflow.data.perlin import blots, perlin


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_noise_is_zero_at_corners_and_bounded() -> None:
    noise = perlin(96, 64, (6, 4), rng())
    assert np.abs(noise[::16, ::16]).max() < 1e-12
    assert 0.3 < np.abs(noise).max() <= 1
    assert abs(noise.mean()) < 0.1


def test_noise_is_continuous_across_cells() -> None:
    noise = perlin(256, 256, (4, 4), rng())
    assert np.abs(np.diff(noise, axis=0)).max() < 0.06
    assert np.abs(np.diff(noise, axis=1)).max() < 0.06


def test_more_cells_are_finer() -> None:
    coarse, fine = (perlin(128, 128, (n, n), rng()) for n in (2, 32))
    change = [np.abs(np.diff(noise, axis=1)).mean() for noise in (coarse, fine)]
    assert change[1] > 5 * change[0]


def test_a_size_that_cells_do_not_divide() -> None:
    assert perlin(50, 70, (32, 8), rng()).shape == (50, 70)


def test_blots_cover_a_part_of_the_picture_and_less_at_a_higher_threshold() -> None:
    share = {t: np.mean([blots(64, 96, 6, t, rng_) for rng_ in _many()]) for t in (0.3, 0.5)}
    assert 0.005 < share[0.5] < share[0.3] < 0.5


def _many() -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(40)]
