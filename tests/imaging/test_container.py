"""A file that is cut, damaged or no picture at all is refused, and the refusal says which."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanflow import imaging
from sanflow.errors import ImageError
from sanflow.imaging import DecodeError, decode

from .kit import blocks, encoded, noise, with_exif


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


@settings(max_examples=60, deadline=None)
@given(head=st.sampled_from([b"", b"\xff\xd8\xff", b"BM", b"II*\0", b"RIFF"]), rest=st.binary())
def test_random_bytes_never_end_in_anything_but_an_image_error(head: bytes, rest: bytes) -> None:
    with pytest.raises(ImageError):
        decode(head + rest)
