"""Pixels in, pixels out: what is decoded, what is refused, and how an image comes to size.

PNG files and EXIF segments are written byte by byte here, so that nothing that reads them had a
hand in making them.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Callable
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
from sanflow.imaging import DecodeError, PixelPath, Roi, decode, to_rgb8, too_few
from sanflow.imaging.pixel_path import _shrink

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
LEVELS_16 = [0, 128, 129, 25700, 65407, 65535]
LEVELS_8 = [0, 0, 1, 100, 255, 255]  # divided by 257, rounded


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(lines: list[bytes], width: int, depth: int, colour: int, *extra: bytes) -> bytes:
    """A PNG file of unfiltered lines."""
    header = struct.pack(">IIBBBBB", width, len(lines), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def one_line(pixels: NDArray[Any], colour: int) -> bytes:
    """A PNG file of one line of 8 or 16 bit pixels."""
    depth = pixels.dtype.itemsize * 8
    return png(
        [pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()], len(pixels), depth, colour
    )


def encoded(suffix: str, rgb: NDArray[Any], *options: int) -> bytes:
    """An RGB array as OpenCV encodes it."""
    done, data = cv2.imencode(suffix, rgb[:, :, ::-1], list(options))
    assert done
    return data.tobytes()


def noise(height: int = 12, width: int = 17, seed: int = 0) -> NDArray[np.uint8]:
    """An image no two pixels of which agree by chance."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blocks() -> NDArray[np.uint8]:
    """Six flat blocks of 16 pixels, all different, which JPEG keeps nearly as they are."""
    colours = [[(250, 10, 10), (10, 250, 10), (10, 10, 250)], [(10,) * 3, (128,) * 3, (245,) * 3]]
    return np.array(colours, np.uint8).repeat(16, axis=0).repeat(16, axis=1)


# Decoding: every kind of pixel


@pytest.mark.parametrize("colour", [GREY, RGB, RGBA, GREY_ALPHA])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_of_every_depth_and_channel_count(colour: int, dtype: type[np.unsignedinteger]) -> None:
    levels = np.array(LEVELS_16 if dtype == np.uint16 else LEVELS_8, dtype)
    channels = {GREY: 1, RGB: 3, RGBA: 4, GREY_ALPHA: 2}[colour]
    pixels = np.stack([np.roll(levels, c) for c in range(channels)], axis=1)
    expected = np.stack([np.roll(LEVELS_8, c) for c in range(channels)], axis=1)
    colours = expected[:, :3] if channels >= 3 else expected[:, :1].repeat(3, axis=1)
    image = decode(one_line(pixels, colour))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, colours[None])


def test_palette_is_resolved() -> None:
    palette = chunk(b"PLTE", bytes([9, 8, 7, 200, 100, 50, 0, 255, 1]))
    image = decode(png([bytes([2, 0, 1])], 3, 8, PALETTE, palette))
    assert image.tolist() == [[[0, 255, 1], [9, 8, 7], [200, 100, 50]]]


def test_one_bit_grey_is_black_and_white() -> None:
    image = decode(png([bytes([0b10100000])], 3, 1, GREY))
    assert image[0, :, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_keep_every_pixel(suffix: str) -> None:
    options = (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()
    np.testing.assert_array_equal(decode(encoded(suffix, noise(), *options)), noise())


def test_jpeg_colour_and_grey() -> None:
    colour = decode(encoded(".jpg", blocks(), cv2.IMWRITE_JPEG_QUALITY, 100))
    middles = (slice(8, None, 16), slice(8, None, 16))  # colour is coarse where blocks meet
    assert np.abs(colour[middles].astype(int) - blocks()[middles]).max() <= 4
    done, data = cv2.imencode(".jpg", blocks()[:, :, 0])
    assert done
    grey = decode(data.tobytes())
    assert grey.shape == (32, 48, 3)
    assert (grey == grey[:, :, :1]).all()


@pytest.mark.parametrize("scale", [1, 257])
def test_the_dtype_decides_the_scaling_never_the_content(scale: int) -> None:
    nearly_black = np.array([0, 1, 2, 1], np.uint16 if scale == 257 else np.uint8) * scale
    image = decode(one_line(nearly_black[:, None], GREY))
    assert image[0, :, 0].tolist() == [0, 1, 2, 1]


def test_12_bit_values_in_16_bit_are_not_stretched() -> None:
    image = decode(one_line(np.array([[0], [4095]], np.uint16), GREY))
    assert image.max() == 16


# EXIF

ORIENTED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    """The JPEG with an APP1 segment that states an orientation, and perhaps holds more bytes."""
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + tag + struct.pack("<I", 0)
    body = b"Exif\0\0" + tiff + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation_is_applied(orientation: int) -> None:
    jpeg = encoded(".jpg", blocks(), cv2.IMWRITE_JPEG_QUALITY, 100)
    image = decode(with_exif(jpeg, orientation))
    np.testing.assert_array_equal(image, ORIENTED[orientation](decode(jpeg)))


# Refusals


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_a_file_cut_anywhere_is_called_truncated(suffix: str) -> None:
    data = encoded(suffix, noise())
    for end in {*range(12, len(data) - 2, 7), len(data) - 3}:
        with pytest.raises(DecodeError, match=r"part 7.*truncated") as caught:
            decode(data[:end], "part 7")
        assert caught.value.problem == "truncated", end


def test_a_cut_tiff_is_refused() -> None:
    data = encoded(".tif", noise(), cv2.IMWRITE_TIFF_COMPRESSION, 1)
    for end in range(4, len(data) - 1, 11):
        with pytest.raises(DecodeError):
            decode(data[:end])


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photograph() -> None:
    jpeg = encoded(".jpg", blocks())
    data = with_exif(jpeg, 1, thumbnail=jpeg)
    assert decode(data).shape == (32, 48, 3)
    with pytest.raises(DecodeError, match="truncated"):
        decode(data[:-40])


def test_bytes_after_the_end_do_no_harm() -> None:
    for suffix in (".png", ".jpg"):
        data = encoded(suffix, blocks())
        np.testing.assert_array_equal(decode(data + b"\0appended"), decode(data))


def test_one_flipped_bit_in_a_png_is_seen() -> None:
    data = bytearray(imaging.encode_png(noise()))
    data[len(data) // 2] ^= 1
    with pytest.raises(DecodeError, match=r"damaged PNG: checksum of chunk b'IDAT'") as caught:
        decode(bytes(data))
    assert caught.value.problem == "unreadable"


@pytest.mark.parametrize(
    ("data", "problem", "words"),
    [
        (b"", "empty", "0 bytes"),
        (b"part,verdict\n1,OK\n", "unreadable", "not an image: begins with b'part,ver'"),
        (b"GIF89a" + bytes(40), "unsupported type", "GIF is not supported; save it as PNG"),
        (b"%PDF-1.7" + bytes(40), "unsupported type", "PDF is not supported"),
        (b"RIFF" + bytes(4) + b"WAVE" + bytes(40), "unreadable", "not WebP"),
        (b"II*\0" + bytes(40), "unreadable", "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, problem: str, words: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data, "line 3")
    assert caught.value.problem == problem
    assert str(caught.value).startswith("line 3: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint32])
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_pixels_without_a_known_scale_are_refused(
    dtype: type[np.number[Any]], shape: tuple[int, ...]
) -> None:
    done, data = cv2.imencode(".tif", np.ones(shape, dtype))
    assert done
    with pytest.raises(DecodeError, match=rf"{np.dtype(dtype)} .*8 or 16 bits") as caught:
        decode(data.tobytes())
    assert caught.value.problem == "unsupported type"


@settings(max_examples=60, deadline=None)
@given(head=st.sampled_from([b"", b"\xff\xd8\xff", b"BM", b"II*\0", b"RIFF"]), rest=st.binary())
def test_random_bytes_never_end_in_anything_but_an_image_error(head: bytes, rest: bytes) -> None:
    with pytest.raises(ImageError):
        decode(head + rest)


@pytest.mark.parametrize("alpha", [0, 128, 254])
@pytest.mark.parametrize("order", ["little", "big"])
def test_a_transparent_tiff_is_refused_and_an_opaque_one_read(
    order: str, alpha: int, tmp_path: Path
) -> None:
    """Its reader multiplies colours by alpha: what is invisible in the file would be black."""
    image = np.full((8, 9, 4), 200, np.uint8)
    image[2:4, :, 3] = alpha
    path = tmp_path / "part.tif"
    with pytest.raises(DecodeError, match="multiplied by their alpha; save it as PNG") as refusal:
        imaging.decode(tiff(image, order))
    assert refusal.value.problem == "unsupported type"
    grey = imaging.decode(tiff(image[..., 2:], order))
    assert (grey == 200).all(), "of grey the colour is not multiplied"
    image[..., 3] = 255
    path.write_bytes(tiff(image, order))
    assert (imaging.read(path) == image[..., :3]).all()


def tiff(image: NDArray[np.uint8], order: str) -> bytes:
    """An uncompressed TIFF with unassociated alpha, as image programs write it: RGB or grey."""
    mark = "<" if order == "little" else ">"
    height, width, channels = image.shape
    depths, pixels = 8 + 2 + 12 * 11 + 4, 8 + 2 + 12 * 11 + 4 + 8
    short, long = 3, 4
    # Two depths fit into the field itself: 8 and 8.
    bits = depths if channels == 4 else 8 << 16 | 8
    tags = [
        (256, short, 1, width),
        (257, short, 1, height),
        (258, short, channels, bits),
        (259, short, 1, 1),
        (262, short, 1, 2 if channels == 4 else 1),
        (273, long, 1, pixels),
        (277, short, 1, channels),
        (278, short, 1, height),
        (279, long, 1, image.nbytes),
        (284, short, 1, 1),
        (338, short, 1, 2),
    ]
    data = (b"II*\0" if order == "little" else b"MM\0*") + struct.pack(f"{mark}I", 8)
    data += struct.pack(f"{mark}H", len(tags))
    for tag, kind, count, value in tags:
        field = "HH" if kind == short and count == 1 else "I"
        data += struct.pack(f"{mark}HHI", tag, kind, count)
        data += struct.pack(f"{mark}{field}", *((value, 0) if field == "HH" else (value,)))
    return data + bytes(4) + struct.pack(f"{mark}4H", 8, 8, 8, 8) + image.tobytes()


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="cannot be opened"):
        imaging.read(Path("a\0b.png"))
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(DecodeError, match="cannot be opened") as caught:
            imaging.read(path)
        assert str(path) in str(caught.value)


# Camera arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_camera_arrays_of_every_shape(
    dtype: type[np.unsignedinteger], channels: tuple[int, ...]
) -> None:
    levels = np.array([0, 7, 255]) * (257 if dtype == np.uint16 else 1)
    array = np.broadcast_to(levels.reshape((1, 3) + (1,) * len(channels)), (2, 3, *channels))
    image = to_rgb8(array.astype(dtype))
    assert image.shape == (2, 3, 3)
    assert image.dtype == np.uint8
    assert image[1, :, 2].tolist() == [0, 7, 255]


def test_alpha_of_a_camera_array_is_dropped() -> None:
    array = np.dstack([noise(), np.zeros((12, 17), np.uint8)])
    np.testing.assert_array_equal(to_rgb8(array), noise())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.int16),
        np.zeros((4, 4), np.bool_),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(16, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused_with_what_was_given(array: NDArray[Any]) -> None:
    given = str(array.dtype) if array.dtype not in (np.uint8, np.uint16) else str(array.shape)
    with pytest.raises(ImageError, match="expected") as caught:
        to_rgb8(array)
    assert given in str(caught.value)


# Region of interest and size


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


sizes = st.integers(1, 24)


@settings(max_examples=50, deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 255))
def test_a_flat_image_stays_flat_at_any_size(h: int, w: int, to_h: int, to_w: int, v: int) -> None:
    assume(not too_few((h, w), (to_h, to_w)))
    image = PixelPath(to_h, to_w)(np.full((h, w, 3), v, np.uint8))
    assert image.shape == (to_h, to_w, 3)
    assert (image == v).all()


@pytest.mark.parametrize("bad", [noise()[:, :, 0], noise().astype(np.float32), noise()[:, :, :2]])
def test_only_rgb8_enters_the_path(bad: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"expected a uint8 image .* convert .* to_rgb8"):
        PixelPath(4, 4)(bad)


def test_load_is_read_then_call(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    imaging.write_png(path, noise())
    pixels = PixelPath(7, 9, Roi(1, 1, 11, 10))
    np.testing.assert_array_equal(pixels.load(path), pixels(noise()))


# Masks


@pytest.mark.parametrize("top", [1, 255])
def test_masks_of_any_brightness_read_alike(top: int, tmp_path: Path) -> None:
    shape = np.zeros((6, 8), np.uint8)
    shape[2:4, 3:6] = 1
    path = tmp_path / "m.png"
    imaging.write_png(path, shape * np.uint8(top))
    np.testing.assert_array_equal(imaging.read_mask(path), shape.astype(bool))
    imaging.write_png(path, shape * 0)
    assert not imaging.read_mask(path).any()


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


# Out again


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


# Real photographs


@pytest.mark.real_parts
def test_every_magnetic_tile_decodes_and_fits_its_mask(shared: Path) -> None:
    root = shared / "data" / "mtd"
    paths = [p for p in sorted(root.rglob("*")) if p.suffix in imaging.IMAGE_SUFFIXES]
    size = {p.stem: imaging.read(p).shape for p in paths if p.suffix == ".jpg"}
    masks = [p for p in paths if p.parent.parent.name == "ground_truth"]
    assert len(size) > 1300
    assert len(masks) > 300
    for path in masks:
        mask = imaging.read_mask(path)
        assert mask.shape == size[path.stem.removesuffix("_mask")][:2], path
        assert 0 < mask.mean() < 1, path


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
