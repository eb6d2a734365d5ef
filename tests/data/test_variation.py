"""Good parts as they might also have come: within the limits, and the same bits every time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanflow.data.config import SynthConfig
from sanflow.data.synthetic import Synthesiser
from sanflow.data.variation import varied

SIDE = 64


def test_turned_parts_are_turned_by_no_more_than_the_limit() -> None:
    """A bright bar through the centre: its angle is found again from its moments."""
    bar = np.zeros((SIDE, SIDE, 3), np.uint8)
    bar[SIDE // 2 - 2 : SIDE // 2 + 2, 8:-8] = 255
    config = SynthConfig(enabled=False, quotas=(64, 0, 0, 0), turn=20.0)
    maker = Synthesiser(config, SIDE, SIDE, seed=0)
    images, masks = maker.batch([bar] * 64, [bar], 0, 0)
    assert not masks.any()
    angles = []
    for image in images:
        moments = cv2.moments(image[..., 0])
        angle = 0.5 * np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"])
        angles.append(np.degrees(angle))
        assert moments["m10"] / moments["m00"] == pytest.approx(SIDE / 2 - 0.5, abs=0.3)
    assert max(map(abs, angles)) <= 20.5
    assert min(angles) < -10 < 10 < max(angles)
    again, _ = maker.batch([bar] * 64, [bar], 0, 0)
    other, _ = maker.batch([bar] * 64, [bar], 0, 1)
    assert np.array_equal(again, images)
    assert not np.array_equal(other, images)


def test_what_turning_leaves_open_is_mirrored() -> None:
    grey = np.full((SIDE, SIDE, 3), 90, np.uint8)
    maker = Synthesiser(SynthConfig(enabled=False, quotas=(4, 0, 0, 0), turn=90.0), SIDE, SIDE, 0)
    images, _ = maker.batch([grey] * 4, [grey], 0, 0)
    assert (images == 90).all()


@given(st.sampled_from(["horizontal", "vertical", "both"]), st.integers(0, 99))
@settings(max_examples=20)
def test_mirrored_parts_are_the_part_in_an_allowed_way(mirror: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    ways = {"horizontal": [image[:, ::-1]], "vertical": [image[::-1]]}
    ways["both"] = [image[:, ::-1], image[::-1], image[::-1, ::-1]]
    config = SynthConfig(mirror=mirror)  # type: ignore[arg-type]
    found = varied([image] * 64, config, (seed, 0, 0))
    seen = {i for f in found for i, way in enumerate([image, *ways[mirror]]) if (f == way).all()}
    assert all(f.flags.c_contiguous for f in found)
    assert seen == set(range(len(ways[mirror]) + 1))


def test_light_changes_brightness_and_contrast_within_the_limit() -> None:
    image = np.random.default_rng(0).integers(96, 160, (SIDE, SIDE, 3), np.uint8)
    found = varied([image] * 64, SynthConfig(light=0.2), (0, 0, 0))
    brightness = np.array([f.mean() for f in found]) / image.mean()
    spread = np.array([f.std() for f in found]) / image.std() / brightness
    for factor in (brightness, spread):
        assert 0.79 < factor.min() < 0.9 < 1.1 < factor.max() < 1.21
    assert abs(np.corrcoef(brightness, spread)[0, 1]) < 0.5
    dark = varied(
        [np.full((2, 2, 3), v, np.uint8) for v in (0, 255)], SynthConfig(light=0.5), (0, 0, 0)
    )
    assert dark[0].max() == 0


def test_what_is_not_asked_for_changes_nothing_else() -> None:
    """Each change draws its own numbers, so that one more asked for leaves the others alone."""
    images = list(np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8))
    assert varied(images, SynthConfig(), (0, 1, 2)) is images
    mirrored = varied(images, SynthConfig(mirror="both"), (0, 1, 2))
    both = varied(images, SynthConfig(mirror="both", light=1e-9), (0, 1, 2))
    np.testing.assert_array_equal(np.stack(mirrored), np.stack(both))


def test_masks_lie_where_the_varied_part_was_changed() -> None:
    """The part is varied first and the patch is pasted then: the mask needs no varying."""
    half = np.zeros((SIDE, SIDE, 3), np.uint8)
    half[:, : SIDE // 2] = 200
    config = SynthConfig(quotas=(1, 2, 2, 2), mirror="horizontal")
    images, masks = Synthesiser(config, SIDE, SIDE, 0).batch([half] * 7, [half], 0, 0)
    for image, mask in zip(images, masks, strict=True):
        kept = [(image == way)[~mask].all() for way in (half, half[:, ::-1])]
        assert any(kept)


def test_a_light_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"light 1\.0 must be in \[0, 1\)"):
        SynthConfig(light=1.0)
