"""Every pixel format: white is white, colours in their places, too few bytes refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanflow.runtime.line.sources.pixels import CODES, FORMATS, PixelFormat, picture

COLOUR = {"R": 200, "G": 120, "B": 40}


def mosaic(kind: str, height: int, width: int) -> np.ndarray:
    """One colour as a sensor with this filter sees it."""
    cell = np.array([[COLOUR[kind[0]], COLOUR[kind[1]]], [COLOUR[kind[2]], COLOUR[kind[3]]]])
    return np.tile(cell, (height // 2, width // 2))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_white_is_white_and_the_array_is_ones_own(form: PixelFormat) -> None:
    size = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}.get(form.kind, 1)
    full = (1 << form.bits) - 1
    data = bytearray(np.full(8 * 6 * size, full, "<u2" if form.bits > 8 else "u1").tobytes())
    image = picture(form.code, data, 8, 6)
    assert image.shape == ((8, 6) if form.kind == "grey" else (8, 6, 3))
    assert image.min() == image.max() == (255 if form.bits == 8 else 65535)
    data[:] = bytes(len(data))
    assert image.min() > 0
    assert CODES[form.name] == form.code


@pytest.mark.parametrize("form", [f for f in FORMATS if f.kind.isupper()], ids=lambda f: f.name)
def test_filters_give_the_colour_that_was_seen(form: PixelFormat) -> None:
    seen = mosaic(form.kind, 8, 10) << (form.bits - 8)
    image = picture(form.code, seen.astype("<u2" if form.bits > 8 else "u1").tobytes(), 8, 10)
    inside = image[2:-2, 2:-2] >> (0 if form.bits == 8 else 8)
    for channel, wanted in enumerate(COLOUR.values()):
        assert np.abs(inside[:, :, channel].astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("name", ["RGB8", "BGR8", "RGBa8", "BGRa8"])
def test_colours_are_in_their_places(name: str) -> None:
    order = [{"R": 1, "G": 2, "B": 3, "a": 9}[letter] for letter in name[:-1]]
    image = picture(CODES[name], bytes(order * 4), 2, 2)
    assert image.reshape(-1, 3).tolist() == [[1, 2, 3]] * 4


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_what_stands_after_a_row_is_no_pixel(height: int, width: int, padding: int) -> None:
    wanted = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    data = np.pad(wanted, ((0, 0), (0, padding)), constant_values=99).tobytes()
    assert np.array_equal(picture(CODES["Mono8"], data, height, width, padding), wanted)
    unpadded = data[: len(data) - padding]
    assert np.array_equal(picture(CODES["Mono8"], unpadded, height, width, padding), wanted)
    with pytest.raises(ValueError, match="bytes came for"):
        picture(
            CODES["Mono8"], data[: height * (width + padding) - padding - 1], height, width, padding
        )


def test_a_format_that_is_not_read_says_which_are() -> None:
    with pytest.raises(ValueError, match=r"0x010c0004 is not read; set PixelFormat to: Mono8, "):
        picture(0x010C0004, b"", 1, 1)
