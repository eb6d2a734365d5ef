"""Each photometric change: what it may and may not do to a picture."""

from __future__ import annotations

import numpy as np
import pytest

from sanflow.data import augment as a


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(20, 200, (24, 32, 3)).astype(np.uint8)


def several(change: a.Change, image: np.ndarray) -> list[np.ndarray]:
    return [change(image, np.random.default_rng(seed)) for seed in range(12)]


@pytest.mark.parametrize("change", [*a.CHANGES, a.augment])
def test_a_change_keeps_type_and_shape_and_leaves_its_input_alone(change: a.Change) -> None:
    image = picture()
    before = image.copy()
    for made in several(change, image):
        assert made.dtype == np.uint8
        assert made.shape == image.shape
    assert np.array_equal(image, before)
    assert any(not np.array_equal(made, image) for made in several(change, image))


@pytest.mark.parametrize("change", [a.gamma, a.brightness, a.autocontrast, a.equalise])
def test_order_of_values_is_kept(change: a.Change) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for made in several(change, ramp):
        assert (np.diff(made.astype(int), axis=1) >= 0).all()


def test_autocontrast_takes_the_whole_range_and_leaves_a_flat_channel() -> None:
    image = picture()
    image[..., 2] = 77
    made = a.autocontrast(image, np.random.default_rng(0))
    assert made[..., :2].min() == 0
    assert made[..., :2].max() == 255
    assert (made[..., 2] == 77).all()


def test_inversion_twice_is_nothing() -> None:
    image, rng = picture(), np.random.default_rng(0)
    assert np.array_equal(a.invert(a.invert(image, rng), rng), image)


def test_posterised_values_are_few() -> None:
    counts = {len(np.unique(made)) for made in several(a.posterise, picture())}
    assert min(counts) <= 8
    assert all(np.array_equal(m & picture(), m) for m in several(a.posterise, picture()))


def test_a_grey_picture_has_no_hue_to_turn() -> None:
    grey = np.full((8, 8, 3), 120, np.uint8)
    grey[:4] = 60
    turned = cv_chroma(several(a.hue, picture()))
    assert max(turned) > 10
    assert all(m.shape == grey.shape for m in several(a.hue, grey))


def cv_chroma(images: list[np.ndarray]) -> list[float]:
    return [float((m.max(axis=2).astype(int) - m.min(axis=2)).mean()) for m in images]


def test_sharpness_leaves_a_flat_picture() -> None:
    flat = np.full((16, 16, 3), 100, np.uint8)
    assert all(np.array_equal(made, flat) for made in several(a.sharpness, flat))
