"""Every kind of pixel in files and camera arrays, and what comes out of it: uint8 RGB.

PNG and TIFF files are written byte by byte here, so that nothing that reads them had a hand in
making them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow import imaging
from sanflow.errors import ImageError
from sanflow.imaging import DecodeError, decode, to_rgb8

from .kit import blocks, encoded, noise, with_exif

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


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation_is_applied(orientation: int) -> None:
    jpeg = encoded(".jpg", blocks(), cv2.IMWRITE_JPEG_QUALITY, 100)
    image = decode(with_exif(jpeg, orientation))
    np.testing.assert_array_equal(image, ORIENTED[orientation](decode(jpeg)))


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


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="cannot be opened"):
        imaging.read(Path("a\0b.png"))
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(DecodeError, match="cannot be opened") as caught:
            imaging.read(path)
        assert str(path) in str(caught.value)


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


@pytest.mark.parametrize("top", [1, 255])
def test_masks_of_any_brightness_read_alike(top: int, tmp_path: Path) -> None:
    shape = np.zeros((6, 8), np.uint8)
    shape[2:4, 3:6] = 1
    path = tmp_path / "m.png"
    imaging.write_png(path, shape * np.uint8(top))
    np.testing.assert_array_equal(imaging.read_mask(path), shape.astype(bool))
    imaging.write_png(path, shape * 0)
    assert not imaging.read_mask(path).any()


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
