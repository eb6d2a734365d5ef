"""The part in its picture: dark or bright, rounded, with or without its holes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sanflow.data.foreground import foreground


def ring(dark: bool) -> tuple[np.ndarray, np.ndarray]:
    """A ring on a noisy background, and where it is."""
    mask = np.zeros((96, 128), np.uint8)
    cv2.circle(mask, (64, 48), 36, 1, -1)
    cv2.circle(mask, (64, 48), 16, 0, -1)
    level = np.where(mask > 0, 60.0, 200.0) if dark else np.where(mask > 0, 200.0, 60.0)
    noisy = level + np.random.default_rng(0).normal(0, 6, mask.shape)
    noisy[5, 5] = 60 if dark else 200  # a speck beside the part
    image = np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return image, mask > 0


@pytest.mark.parametrize("kind", ["dark", "bright"])
def test_the_ring_is_found_and_the_speck_is_not(kind: str) -> None:
    image, truth = ring(kind == "dark")
    found = foreground(image, kind, fill_holes=False)
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert not found[5, 5]


def test_holes_are_filled_if_asked() -> None:
    image, truth = ring(dark=True)
    assert not foreground(image, "dark", fill_holes=False)[48, 64]
    filled = foreground(image, "dark")
    assert filled[48, 64]
    assert (filled & truth).sum() > 0.97 * truth.sum()


def test_all_is_all() -> None:
    assert foreground(ring(dark=True)[0], "all").all()
