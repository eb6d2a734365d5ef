"""Region of interest and size: what every picture, and its mask, goes through."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sanflow import imaging
from sanflow.errors import ImageError
from sanflow.imaging import PixelPath, Roi, to_rgb8, too_few
from sanflow.imaging.pixel_path import _shrink

from .kit import noise


@pytest.mark.parametrize("values", [(-1, 0, 4, 4), (0, -1, 4, 4), (0, 0, 0, 4), (0, 0, 4, 0)])
def test_an_impossible_region_is_refused(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"x={values[0]} y={values[1]}"):
        Roi(*values)


def test_a_region_outside_the_image_is_refused_and_named(tmp_path: Path) -> None:
    inside, outside = (PixelPath(4, 4, Roi(x, 2, 5, 10)) for x in (12, 13))
    assert inside(noise()).shape == (4, 4, 3)
    with pytest.raises(ImageError, match=r"x 13\.\.18, y 2\.\.12 .* 17 x 12 pixels"):
        outside(noise())
    path = tmp_path / "part.png"
    imaging.write_png(path, noise())
    for load in (outside.load, lambda path: outside.load_mask(path, path)):
        with pytest.raises(ImageError, match=r"part\.png: the region of interest"):
            load(path)


def test_a_region_knows_the_size_that_it_was_chosen_on() -> None:
    """Its pixels are others in a picture of another size, though it may lie inside."""
    path = PixelPath(16, 16, Roi(8, 8, 16, 16), (48, 64))
    assert path(np.zeros((48, 64, 3), np.uint8)).shape == (16, 16, 3)
    with pytest.raises(
        ImageError, match=r"the picture is 128x96 .* was chosen on pictures of 64x48"
    ):
        path(np.zeros((96, 128, 3), np.uint8))


def test_a_region_outside_its_own_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="is outside the original"):
        PixelPath(16, 16, Roi(60, 8, 16, 16), (48, 64))


def test_the_same_size_is_the_identity() -> None:
    np.testing.assert_array_equal(PixelPath(12, 17)(noise()), noise())
    crop = PixelPath(5, 6, Roi(x=3, y=2, width=6, height=5))(noise())
    np.testing.assert_array_equal(crop, noise()[2:7, 3:9])
    assert crop.flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(
    given_size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    wanted=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    dtype=st.sampled_from(["uint8", "uint16"]),
    channels=st.sampled_from([0, 1, 3, 4]),
    seed=st.integers(0, 9),
)
def test_a_cameras_array_takes_the_one_pixel_path(
    given_size: tuple[int, int], wanted: tuple[int, int], dtype: str, channels: int, seed: int
) -> None:
    """The short way of grey pictures gives the same bits, whatever resizing is needed."""
    shape = (*given_size, channels) if channels else given_size
    array = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)
    roi = Roi(0, 0, (given_size[1] + 1) // 2, (given_size[0] + 1) // 2) if seed % 2 else None
    path = PixelPath(*wanted, roi)
    assume(not too_few((roi.height, roi.width) if roi else given_size, wanted))
    np.testing.assert_array_equal(path.camera(array), path(to_rgb8(array)))


@pytest.mark.parametrize("size", [(16, 16), (21, 13), (7, 32)])
def test_a_fine_checkerboard_shrinks_to_grey(size: tuple[int, int]) -> None:
    rows, columns = np.indices((128, 128))
    board = ((rows + columns) % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    small = PixelPath(*size)(board).astype(float)
    assert abs(small.mean() - 127.5) < 1.5
    assert small.std() < 12  # at whole factors it is exactly flat:
    if size == (16, 16):
        assert np.ptp(small) == 0


def test_growing_is_bilinear() -> None:
    edge = np.zeros((2, 2, 3), np.uint8)
    edge[:, 1] = 200
    wide = PixelPath(2, 8)(edge)
    assert wide[0, :, 0].tolist() == [0, 0, 25, 75, 125, 175, 200, 200]


def test_each_axis_is_filtered_for_itself() -> None:
    stripes = np.zeros((4, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    stripes[2:] //= 2
    image = PixelPath(16, 16)(stripes)  # four times taller, four times narrower
    assert (image == image[:, :1]).all(), "stripes below the sampling rate must not alias"
    column = image[:, 0, 0].astype(int)
    assert column[0] == 100
    assert column[-1] == 50
    assert (np.diff(column) <= 0).all()
    assert len(set(column.tolist())) > 3, "growing must interpolate between the rows"


sizes = st.integers(1, 24)


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 255))
def test_a_flat_image_stays_flat_at_any_size(h: int, w: int, to_h: int, to_w: int, v: int) -> None:
    assume(not too_few((h, w), (to_h, to_w)))
    image = PixelPath(to_h, to_w)(np.full((h, w, 3), v, np.uint8))
    assert image.shape == (to_h, to_w, 3)
    assert (image == v).all()


@pytest.mark.parametrize("channels", [(), (3,)])
def test_blocks_of_pixels_are_averaged_as_opencv_does(channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for down, across in itertools.product(range(1, 18), repeat=2):
        picture = rng.integers(0, 256, (6 * down, 5 * across, *channels), np.uint8)
        expected = cv2.resize(picture, (5, 6), interpolation=cv2.INTER_AREA)
        found = _shrink(picture, 6, 5)
        assert found.dtype == np.uint8, (down, across)
        assert np.array_equal(found, expected), (down, across)


def test_the_largest_block_of_white_stays_white() -> None:
    white = np.full((16 * 2, 16 * 3), 255, np.uint8)
    assert np.array_equal(_shrink(white, 2, 3), np.full((2, 3), 255))


@pytest.mark.parametrize("size", [(1, 1), (15, 300), (300, 15)])
def test_a_picture_of_hardly_any_pixels_is_refused(size: tuple[int, int]) -> None:
    """A frame of one pixel, enlarged, would be judged like any other."""
    given = f"{size[1]}x{size[0]} pixels"
    with pytest.raises(ImageError, match=rf"{given} .* too few for a model that sees 256x256"):
        PixelPath(256, 256)(np.zeros((*size, 3), np.uint8))
    assert PixelPath(256, 256)(np.zeros((16, 16, 3), np.uint8)).shape == (256, 256, 3)


@pytest.mark.parametrize("size", [(48, 64), (96, 128), (24, 32), (50, 64), (48, 70)])
def test_the_same_proportions_are_taken(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = PixelPath(32, 32, original=(48, 64))(image)
    assert (found == PixelPath(32, 32)(image)).all()


@pytest.mark.parametrize("size", [(64, 48), (48, 48), (54, 64), (97, 128), (23, 32)])
def test_another_shape_than_the_models_pictures_is_refused(size: tuple[int, int]) -> None:
    """A camera in a wrong mode would be judged on squeezed parts."""
    path = PixelPath(32, 32, original=(48, 64))
    said = rf"the picture is {size[1]}x{size[0]} \(width x height\), .* of 64x48: set the camera"
    for make in (
        lambda: path(np.zeros((*size, 3), np.uint8)),
        lambda: path.camera(np.zeros(size, np.uint8)),
    ):
        with pytest.raises(ImageError, match=said):
            make()


@pytest.mark.parametrize("bad", [noise()[:, :, 0], noise().astype(np.float32), noise()[:, :, :2]])
def test_only_rgb8_enters_the_path(bad: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"expected a uint8 image .* convert .* to_rgb8"):
        PixelPath(4, 4)(bad)


def test_load_is_read_then_call(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    imaging.write_png(path, noise())
    pixels = PixelPath(7, 9, Roi(1, 1, 11, 10))
    np.testing.assert_array_equal(pixels.load(path), pixels(noise()))


def test_a_mask_of_another_size_is_never_stretched(tmp_path: Path) -> None:
    image, mask = tmp_path / "part.png", tmp_path / "part_mask.png"
    imaging.write_png(image, np.zeros((40, 60, 3), np.uint8))
    imaging.write_png(mask, np.zeros((20, 60, 3), np.uint8))
    said = r"part_mask\.png: the mask is 60x20, its image part\.png 60x40"
    with pytest.raises(ImageError, match=said):
        PixelPath(16, 16).load_mask(mask, image)


def test_a_mask_follows_its_image_through_the_path() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[10:30, 20:44] = True
    picture = np.repeat((mask * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    for pixels in (PixelPath(20, 30), PixelPath(20, 20, Roi(10, 0, 40, 40)), PixelPath(80, 120)):
        small = pixels.mask(mask)
        assert small.dtype == np.bool_
        np.testing.assert_array_equal(small, pixels(picture)[:, :, 0] > 127)
    assert PixelPath(20, 30).mask(mask).mean() == mask.mean()
    np.testing.assert_array_equal(PixelPath(40, 60).mask(mask), mask)
