"""Pixels out again: the anomaly map over its image, PNG files, the hash of pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow import imaging
from sanflow.imaging import decode, to_rgb8

from .kit import encoded, noise


def heat(height: int = 8, width: int = 8) -> NDArray[np.float32]:
    """A map that is 0 but for its lower right quarter, which is 1."""
    values = np.zeros((height, width), np.float32)
    values[height // 2 :, width // 2 :] = 1
    return values


def test_overlay_is_clear_at_low_and_glows_at_high() -> None:
    image = noise(32, 32)
    shown = imaging.overlay(image, heat(), 0.0, 1.0)
    np.testing.assert_array_equal(shown[:12], image[:12])
    changed = np.abs(shown[20:, 20:].astype(int) - image[20:, 20:])
    assert changed.mean() > 40
    np.testing.assert_array_equal(image, noise(32, 32))  # drawn on a copy


def test_overlay_outlines_the_threshold() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    outlined = imaging.overlay(image, heat(), 0.0, 1.0, threshold=0.5)
    white = (outlined == 255).all(axis=2)
    assert white.any()
    assert not white[:14].any()
    assert not white[20:30, 20:30].any()  # a contour, not an area
    above = imaging.overlay(image, heat(), 0.0, 1.0, threshold=1.5)
    np.testing.assert_array_equal(above, imaging.overlay(image, heat(), 0.0, 1.0))


def test_overlay_shows_what_is_not_a_number_as_hot() -> None:
    image, broken = noise(8, 8), heat()
    broken[broken == 1] = np.nan
    np.testing.assert_array_equal(
        imaging.overlay(image, broken, 0.0, 1.0), imaging.overlay(image, heat(), 0.0, 1.0)
    )


def test_overlay_of_a_map_without_range() -> None:
    assert imaging.overlay(noise(), heat() * 0, 0.0, 0.0).shape == noise().shape


@pytest.mark.parametrize("image", [noise(), noise()[:, :, 1]])
def test_png_round_trip(image: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(decode(imaging.encode_png(image)), to_rgb8(image))


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sheet.png"
    imaging.write_png(path, noise())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        imaging.write_png(path, noise(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_pixel_hash_knows_pixels_and_shape_not_the_file() -> None:
    image = noise()
    original = imaging.pixel_sha256(image)
    assert imaging.pixel_sha256(decode(encoded(".bmp", image))) == original
    assert imaging.pixel_sha256(np.asfortranarray(image)) == original
    assert imaging.pixel_sha256(image.reshape(17, 12, 3)) != original
    image[3, 4, 1] ^= 1
    assert imaging.pixel_sha256(image) != original
