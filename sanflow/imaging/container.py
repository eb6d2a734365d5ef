"""Whether a file is whole, and of a kind that is read, before OpenCV sees it.

OpenCV's decoders differ between versions in what they do with a truncated file: some return half
a picture. So each format's own bytes say here where it ends.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

from ..errors import ImageError

_FOREIGN = (
    (b"GIF8", "GIF"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
)
# Stuffed zeros and restart markers belong to the entropy-coded data; anything else ends it.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class DecodeError(ImageError):
    """A file that is no complete picture; `problem` is one of check_dataset's words."""

    def __init__(self, name: str, problem: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.problem = problem
        self.detail = detail


def check_container(data: bytes, name: str) -> None:
    """Raise DecodeError unless the bytes are a whole file of a format that is read."""
    if not data:
        raise DecodeError(name, "empty", "the file is empty (0 bytes); copy it again")
    checks: tuple[tuple[bytes, Callable[[bytes], str | None]], ...] = (
        (b"\x89PNG\r\n\x1a\n", _png_fault),
        (b"\xff\xd8\xff", _jpeg_fault),
        (b"BM", _bmp_fault),
        (b"II*\0", _no_fault),
        (b"MM\0*", _no_fault),
        (b"RIFF", _webp_fault),
    )
    for magic, fault in checks:
        if data.startswith(magic):
            reason = fault(data)
            if reason is None:
                return
            problem = "truncated" if reason.startswith("truncated") else "unreadable"
            raise DecodeError(name, problem, f"{reason}; save or copy it again")
    for magic, kind in _FOREIGN:
        if data.startswith(magic):
            detail = f"{kind} is not supported; save it as PNG, JPEG, BMP, TIFF or WebP"
            raise DecodeError(name, "unsupported type", detail)
    detail = f"not an image: begins with {data[:8]!r}; expected PNG, JPEG, BMP, TIFF or WebP"
    raise DecodeError(name, "unreadable", detail)


def tiff_multiplies(data: bytes) -> bool:
    """Whether it is a TIFF that names its alpha (tag 338 is 1 or 2): libtiff multiplies it in."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return False
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        entries = (struct.unpack_from(f"{order}HHIH", data, at + 2 + 12 * i) for i in range(count))
        return any(tag == 338 and value in (1, 2) for tag, _, _, value in entries)
    except struct.error:
        return False


def _png_fault(data: bytes) -> str | None:
    """Walk the chunks to IEND; each has its own checksum, so damage anywhere is seen."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            return f"damaged PNG: checksum of chunk {kind!r} at byte {at} does not match"
        if kind == b"IEND":
            return None
        at = end
    return f"truncated PNG: {len(data)} bytes and no end"


def _jpeg_fault(data: bytes) -> str | None:
    """Walk the segments to the end marker; a thumbnail's own end marker does not count."""
    at = 2
    while match := _MARKER.search(data, at):
        code, at = data[match.start() + 1], match.end()
        if code == 0xD9:
            return None
        if code != 0x01:  # TEM alone stands without a length here
            at += int.from_bytes(data[at : at + 2], "big")
    return f"truncated JPEG: {len(data)} bytes and no end marker"


def _bmp_fault(data: bytes) -> str | None:
    """Reckon the bytes of the rows: the size a header states for the file is often wrong."""
    start, header = (int.from_bytes(data[i : i + 4], "little") for i in (10, 14))
    end = start + 1
    if header >= 40 and len(data) >= 34:  # the older, shorter header is left to OpenCV
        width, height, _, bits, packed = struct.unpack_from("<iiHHI", data, 18)
        if packed in (0, 3):  # plain rows; run lengths say nothing about the end
            end = start + (abs(width) * bits + 31) // 32 * 4 * abs(height)
    return None if 26 <= start < end <= len(data) else f"truncated BMP: {len(data)} bytes"


def _webp_fault(data: bytes) -> str | None:
    stated = 8 + int.from_bytes(data[4:8], "little")
    if data[8:12] != b"WEBP":
        return "not an image: a RIFF file that is not WebP"
    return None if len(data) + 1 >= stated else f"truncated WebP: {len(data)} of {stated} bytes"


def _no_fault(data: bytes) -> str | None:
    return None
