"""Synthetic anomalies: exact numbers, the same every time, and masks that tell where they are."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sanflow.data.config import SynthConfig
from sanflow.data.synthetic import Synthesiser, _content, _jitter
from sanflow.errors import InputError

SIDE = 64
BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)
WHITE = np.full((SIDE, SIDE, 3), 255, np.uint8)
PLAIN = SynthConfig(jitter=0.0)


def parts(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Images of noise, all different."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8))


def only(kind: int, count: int = 60) -> SynthConfig:
    """One good part and `count` anomalies of one kind (1 small, 2 medium, 3 circle)."""
    quotas = [1, 0, 0, 0]
    quotas[kind] = count
    return replace(PLAIN, quotas=(quotas[0], quotas[1], quotas[2], quotas[3]))


def areas(config: SynthConfig, side: int) -> NDArray[np.int64]:
    """The areas of the masks of one batch, in pixels."""
    image = np.zeros((side, side, 3), np.uint8)
    maker = Synthesiser(config, side, side, seed=0)
    _, masks = maker.batch([image] * len(maker.kinds), [image], 0, 0)
    return masks[1:].sum(axis=(1, 2))


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(1, 3), *[st.integers(0, 3)] * 3), st.integers(0, 99))
def test_quotas_are_exact_and_in_order(quotas: tuple[int, int, int, int], step: int) -> None:
    maker = Synthesiser(replace(PLAIN, quotas=quotas), SIDE, SIDE, seed=1)
    good = [BLACK] * sum(quotas)
    images, masks = maker.batch(good, [WHITE], epoch=0, step=step)
    assert images.shape == (sum(quotas), SIDE, SIDE, 3)
    assert masks.shape == (sum(quotas), SIDE, SIDE)
    assert (images.dtype, masks.dtype) == (np.uint8, np.bool_)
    changed = masks.any(axis=(1, 2))
    assert changed.tolist() == [False] * quotas[0] + [True] * sum(quotas[1:])
    kinds = ("normal", "small", "medium", "circle")
    assert maker.kinds == tuple(k for k, n in zip(kinds, quotas, strict=True) for _ in range(n))


def test_every_choice_follows_from_seed_epoch_and_step() -> None:
    good = parts(8)

    def batch(seed: int, epoch: int, step: int) -> bytes:
        images, masks = Synthesiser(SynthConfig(), SIDE, SIDE, seed).batch(good, good, epoch, step)
        return images.tobytes() + masks.tobytes()

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    once = [batch(*place) for place in places]
    again = [batch(*place) for place in reversed(places)][::-1]
    assert once == again
    assert len(set(once)) == len(places)


def test_the_mask_is_exactly_where_a_white_patch_shows_on_black() -> None:
    maker = Synthesiser(replace(PLAIN, quotas=(1, 20, 20, 20)), SIDE, SIDE, seed=0)
    images, masks = maker.batch([BLACK] * 61, [WHITE], 0, 0)
    np.testing.assert_array_equal((images > 0).all(axis=3), masks)
    np.testing.assert_array_equal((images > 0).any(axis=3), masks)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_outside_the_mask_nothing_changes(step: int) -> None:
    good = parts(8)
    images, masks = Synthesiser(SynthConfig(), SIDE, SIDE, 0).batch(good, good, 0, step)
    np.testing.assert_array_equal(images[~masks], np.stack(good)[~masks])
    assert (images[:2] == np.stack(good[:2])).all()


def test_the_images_given_are_not_touched() -> None:
    good = parts(8)
    copies = [image.copy() for image in good]
    Synthesiser(SynthConfig(), SIDE, SIDE, 0).batch(good, good, 0, 0)
    np.testing.assert_array_equal(good, copies)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_sizes_scale_with_the_image(kind: int) -> None:
    at_128, at_256 = (areas(only(kind), side).mean() for side in (128, 256))
    assert at_256 / at_128 == pytest.approx(4, rel=0.2)


def test_sizes_are_those_of_the_paper_at_256_pixels() -> None:
    sharp = replace(only(3), blur=0.0)
    radius = np.sqrt(areas(sharp, 256) / np.pi)
    assert radius.min() > 9
    assert radius.max() < 26
    assert np.ptp(radius) > 10
    small = areas(replace(only(1), blur=0.0), 256)
    assert small.min() >= 2 * 8
    assert small.max() <= 33 * 51
    medium = areas(replace(only(2), blur=0.0), 256)
    assert medium.max() > small.max()


def test_a_rectangle_has_the_sides_that_were_asked_for() -> None:
    config = replace(only(2), rotation=0.0, blur=0.0, medium_height=(32, 32), medium_width=(64, 64))
    maker = Synthesiser(config, 128, 128, seed=0)
    image = np.zeros((128, 128, 3), np.uint8)
    _, masks = maker.batch([image] * 61, [image], 0, 0)
    for mask in masks[1:]:
        high, wide = (np.flatnonzero(mask.any(axis=axis)).size for axis in (1, 0))
        assert 16 <= high <= 18  # an antialiased line more on each side
        assert 32 <= wide <= 34


def test_a_patch_larger_than_the_image_covers_its_side() -> None:
    config = replace(only(2), rotation=0.0, medium_width=(256, 256), medium_height=(16, 16))
    maker = Synthesiser(config, 64, 64, seed=0)
    _, masks = maker.batch([BLACK] * 61, [WHITE], 0, 0)
    assert (masks[1:].any(axis=1).sum(axis=1) >= 60).all()


def test_rotation_turns_rectangles_in_every_direction() -> None:
    maker = Synthesiser(only(2, 80), SIDE, SIDE, 0)
    _, masks = maker.batch([BLACK] * 81, [WHITE], 0, 0)
    upright = masks[1:].any(axis=2).sum(axis=1) > masks[1:].any(axis=1).sum(axis=1)
    assert 20 < upright.sum() < 60


def test_borders_are_soft_unless_the_blur_is_zero() -> None:
    def levels(blur: float) -> int:
        config = replace(only(3), blur=blur, circle_radius=(25, 25))
        images, _ = Synthesiser(config, 128, 128, 0).batch(
            [np.zeros((128, 128, 3), np.uint8)] * 61, [np.full((128, 128, 3), 255, np.uint8)], 0, 0
        )
        between = (images[1:, :, :, 0] > 0) & (images[1:, :, :, 0] < 255)
        assert images[1:].max(axis=(1, 2, 3)).min() == 255  # its middle is opaque
        return int(between.sum())

    assert levels(6.0) > 1.5 * levels(2.0) > 2 * levels(0.0)


def test_a_patch_comes_from_another_image_where_there_is_one() -> None:
    maker = Synthesiser(PLAIN, SIDE, SIDE, 0)
    good = [np.full((SIDE, SIDE, 3), 10 * i, np.uint8) for i in range(8)]
    for step in range(10):
        images, masks = maker.batch(good, good, 0, step)
        for i in range(2, 8):
            assert (images[i][masks[i]] != 10 * i).any()
    alone, _ = maker.batch([good[3]] * 8, [good[3]], 0, 0)
    assert (alone == 30).all()  # only itself to lend: nothing to see, and no error


def test_content_is_a_piece_of_its_source() -> None:
    ramp = np.repeat(np.arange(SIDE, dtype=np.uint8)[:, None], SIDE, axis=1)[:, :, None] * 4
    source = np.repeat(ramp, 3, axis=2)
    places = set()
    for seed in range(20):
        patch = _content(source, (9, 9), 0.0, np.random.default_rng(seed))
        assert (patch == patch[:, :1]).all()  # not turned, so each line stays level
        assert np.abs(np.diff(patch[:, 0, 0].astype(int))).max() <= 4  # and of the same scale
        places.add(int(patch[4, 4, 0]))
    assert len(places) > 10


def test_jitter_moves_colour_by_what_it_may() -> None:
    patch = parts(1)[0][:16, :16] // 4 + 96
    rng = np.random.default_rng
    assert _jitter(patch, 0.0, rng(0)) is patch
    means = np.array([_jitter(patch, 0.1, rng(i)).mean() for i in range(200)]) / patch.mean()
    assert 0.88 < means.min() < 0.93
    assert 1.07 < means.max() < 1.12
    grey = np.repeat(patch[:, :, :1], 3, axis=2)
    shifted = _jitter(grey, 0.1, rng(3)).astype(int)
    assert np.ptp(shifted, axis=2).max() <= 1  # grey has no hue to turn


def test_disabled_makes_only_good_parts() -> None:
    maker = Synthesiser(SynthConfig(enabled=False), SIDE, SIDE, 0)
    good = parts(8)
    images, masks = maker.batch(good, [], 0, 0)
    assert maker.kinds == ("normal",) * 8
    np.testing.assert_array_equal(images, good)
    assert not masks.any()


@pytest.mark.parametrize("shape", [(16, 16), (3, 200), (40, 17)])
def test_any_size_of_image(shape: tuple[int, int]) -> None:
    images = [np.full((*shape, 3), v, np.uint8) for v in (0, 255)] * 4
    _, masks = Synthesiser(SynthConfig(), *shape, seed=0).batch(images, images, 0, 0)
    assert masks[2:].any(axis=(1, 2)).all()


def test_wrong_input_is_refused() -> None:
    maker = Synthesiser(SynthConfig(), SIDE, SIDE, 0)
    with pytest.raises(InputError, match="expected 8 good images for a batch, got 7"):
        maker.batch(parts(7), parts(1), 0, 0)
    with pytest.raises(InputError, match=r"expected uint8 \(64, 64, 3\), got uint8 \(32, 64, 3\)"):
        maker.batch(parts(8), [BLACK[:32]], 0, 0)
    with pytest.raises(InputError, match="at least one source"):
        maker.batch(parts(8), [], 0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quotas": (0, 2, 2, 2)}, "at least one normal"),
        ({"quotas": (1, -1, 2, 2)}, "at least one normal"),
        ({"small_width": (9, 3)}, "small_width"),
        ({"circle_radius": (0, 3)}, "circle_radius"),
        ({"blur": -1.0}, "must not be negative"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SynthConfig(), **change)  # type: ignore[arg-type]


def test_threads_of_opencv_do_not_change_the_bits() -> None:
    good, threads = parts(8), cv2.getNumThreads()
    try:
        found = []
        for count in (1, 2):
            cv2.setNumThreads(count)
            found.append(Synthesiser(SynthConfig(), SIDE, SIDE, 0).batch(good, good, 0, 0)[0])
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(*found)
