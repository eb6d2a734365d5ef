"""Textured defects: where they lie, what they are made of, and how strong their label is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow.data.config import TextureConfig
from sanflow.data.textures import TextureSynthesiser, texture_files
from sanflow.errors import DataError, InputError
from sanflow.imaging import write_png

SIDE = 64
Image = NDArray[np.uint8]


def goods(count: int = 6) -> list[Image]:
    rng = np.random.default_rng(3)
    return [rng.integers(90, 160, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(count)]


def made(
    config: TextureConfig, seed: int = 0, step: int = 0
) -> tuple[list[Image], NDArray, NDArray]:
    images = goods()
    synthesiser = TextureSynthesiser(config, SIDE, SIDE, seed)
    return images, *synthesiser.batch(images, images, 0, step)


def test_only_labelled_pixels_are_changed() -> None:
    images, changed, labels = made(TextureConfig())
    untouched = labels == 0
    assert changed.dtype == np.uint8
    assert labels.dtype == np.float32
    assert (labels > 0).any(axis=(1, 2)).sum() >= 3
    assert np.array_equal(changed[untouched], np.stack(images)[untouched])


def test_a_label_is_the_mean_sigmoid_of_the_change() -> None:
    images, changed, labels = made(TextureConfig())
    for image, new, label in zip(images, changed, labels, strict=True):
        inside = label > 0
        if not inside.any():
            continue
        difference = (new[inside].astype(float) - image[inside]).mean(axis=1) / 255
        expected = (1 / (1 + np.exp(-5 * np.abs(difference)))).mean()
        assert label[inside].min() == label[inside].max() == pytest.approx(expected, rel=1e-6)


def test_signed_labels_of_darkening_are_below_one_half(tmp_path: Path) -> None:
    write_png(tmp_path / "black.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    signed = TextureConfig(str(tmp_path), own=0.0, most_kept=0.0, label="signed")
    dark = [
        made(dataclasses.replace(signed, label=label), 1)[2] for label in ("signed", "absolute")
    ]
    # Inversion may make the black picture white: the two labels then agree.
    for below, above in zip(*dark, strict=True):
        if above.any():
            assert below.max() == pytest.approx(above.max()) or below.max() < 0.5 < above.max()
    assert any(b.max() < 0.5 < a.max() for b, a in zip(*dark, strict=True))


def test_everything_follows_from_seed_epoch_and_step() -> None:
    _, first, labels = made(TextureConfig())
    _, again, same = made(TextureConfig())
    assert np.array_equal(first, again)
    assert np.array_equal(labels, same)
    assert not np.array_equal(first, made(TextureConfig(), step=1)[1])
    assert not np.array_equal(first, made(TextureConfig(), seed=1)[1])


def test_no_share_no_defect() -> None:
    images, changed, labels = made(TextureConfig(share=0.0))
    assert np.array_equal(changed, np.stack(images))
    assert not labels.any()


def test_nothing_lies_beside_the_part() -> None:
    image = np.full((SIDE, SIDE, 3), 230, np.uint8)
    cv2.circle(image, (32, 32), 18, (40, 50, 60), -1)
    part = image[..., 0] < 100
    config = TextureConfig(foreground="dark")
    synthesiser = TextureSynthesiser(config, SIDE, SIDE, 0)
    labels = np.concatenate(
        [synthesiser.batch([image] * 4, goods(), 0, step)[1] for step in range(4)]
    )
    found = (labels > 0).any(axis=0)
    assert found.sum() > 100
    outline = cv2.dilate(part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not (found & ~outline).any()


def test_a_folder_is_read_from_all_below_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    write_png(tmp_path / "a" / "b" / "red.png", np.full((9, 7, 3), (255, 0, 0), np.uint8))
    _, changed, labels = made(TextureConfig(str(tmp_path), own=0.0, most_kept=0.0))
    for image, label in zip(changed, labels, strict=True):
        if label.any():  # a texture of one colour stays one, whatever its colours become
            assert image[label > 0].std(axis=0).max() < 2


def test_hidden_files_are_no_textures(tmp_path: Path) -> None:
    """Archives made on a Mac have one beside every picture; reading it would end the training."""
    write_png(tmp_path / "red.png", np.full((9, 7, 3), (255, 0, 0), np.uint8))
    (tmp_path / "._red.png").write_bytes(b"resource fork")
    assert texture_files(str(tmp_path)) == (tmp_path / "red.png",)


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of textures"):
        made(TextureConfig(str(tmp_path / "none"), own=0.0))
    with pytest.raises(DataError, match="no image in this folder"):
        made(TextureConfig(str(tmp_path), own=0.0))


def test_no_content_at_all_is_refused() -> None:
    synthesiser = TextureSynthesiser(TextureConfig(), SIDE, SIDE, 0)
    with pytest.raises(InputError, match="need a folder of textures or another good image"):
        synthesiser.batch(goods(1), [], 0, 0)
    with pytest.raises(InputError, match="expected uint8"):
        synthesiser.batch([np.zeros((8, 8, 3), np.uint8)], [], 0, 0)


@pytest.mark.parametrize(
    ("field", "value"), [("own", 1.5), ("share", -0.1), ("grains", 0), ("threshold", 1.0)]
)
def test_bad_values_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(TextureConfig(), **{field: value})
