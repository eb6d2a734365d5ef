"""A machine camera's bytes, in the formats that GenICam's Pixel Format Naming Convention numbers.

Ten to fourteen bits are spread over sixteen, so that white is white whatever the sensor's depth;
colour filters are resolved here, the same way for every driver.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Kind = Literal["grey", "rgb", "bgr", "rgba", "bgra", "RGGB", "GRBG", "GBRG", "BGGR"]


class PixelFormat(NamedTuple):
    """How a camera lays out its pixels."""

    name: str
    code: int
    kind: Kind
    bits: int


_BAYER: tuple[tuple[str, Kind, tuple[int, ...]], ...] = (
    ("BayerGR", "GRBG", (0x01080008, 0x0110000C, 0x01100010, 0x0110002E)),
    ("BayerRG", "RGGB", (0x01080009, 0x0110000D, 0x01100011, 0x0110002F)),
    ("BayerGB", "GBRG", (0x0108000A, 0x0110000E, 0x01100012, 0x01100030)),
    ("BayerBG", "BGGR", (0x0108000B, 0x0110000F, 0x01100013, 0x01100031)),
)
FORMATS = (
    PixelFormat("Mono8", 0x01080001, "grey", 8),
    PixelFormat("Mono10", 0x01100003, "grey", 10),
    PixelFormat("Mono12", 0x01100005, "grey", 12),
    PixelFormat("Mono14", 0x01100025, "grey", 14),
    PixelFormat("Mono16", 0x01100007, "grey", 16),
    PixelFormat("RGB8", 0x02180014, "rgb", 8),
    PixelFormat("BGR8", 0x02180015, "bgr", 8),
    PixelFormat("RGBa8", 0x02200016, "rgba", 8),
    PixelFormat("BGRa8", 0x02200017, "bgra", 8),
    *(
        PixelFormat(f"{name}{bits}", code, kind, bits)
        for name, kind, codes in _BAYER
        for bits, code in zip((8, 10, 12, 16), codes, strict=True)
    ),
)
_BY_CODE = {form.code: form for form in FORMATS}
CODES = {form.name: form.code for form in FORMATS}
_CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
_FILTERS = {
    "RGGB": cv2.COLOR_BayerRGGB2RGB,
    "GRBG": cv2.COLOR_BayerGRBG2RGB,
    "GBRG": cv2.COLOR_BayerGBRG2RGB,
    "BGGR": cv2.COLOR_BayerBGGR2RGB,
}


def picture(code: int, data: Any, height: int, width: int, padding: int = 0) -> NDArray[Any]:
    """A buffer as the receiver's own array: uint8 or uint16, (H, W) or RGB (H, W, 3).

    `code` is the format's number, `padding` the bytes after each row. Raises ValueError for a
    format that is not known, or fewer bytes than the picture has.
    """
    form = _BY_CODE.get(code)
    if form is None:
        names = ", ".join(form.name for form in FORMATS)
        raise ValueError(f"the pixel format {code:#010x} is not read; set PixelFormat to: {names}")
    channels = _CHANNELS.get(form.kind, 1)
    dtype = np.dtype(np.uint8 if form.bits == 8 else "<u2")
    row = width * channels * dtype.itemsize
    found = np.frombuffer(data, np.uint8)
    if found.size < height * (row + padding) - padding:
        raise ValueError(f"{found.size} bytes came for {height} rows of {row}")
    if padding:
        found = np.pad(found, (0, max(0, height * (row + padding) - found.size)))
    rows = found[: height * (row + padding)].reshape(height, row + padding)[:, :row]
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    if 8 < form.bits < 16:
        pixels = (pixels << (16 - form.bits)) | (pixels >> (2 * form.bits - 16))
    return _coloured(form.kind, pixels)


def _coloured(kind: Kind, pixels: NDArray[Any]) -> NDArray[Any]:
    if kind in _FILTERS:
        return np.asarray(cv2.cvtColor(pixels[:, :, 0], _FILTERS[kind]))
    if kind == "grey":
        return pixels[:, :, 0].copy()
    order = (0, 1, 2) if kind.startswith("rgb") else (2, 1, 0)
    return np.ascontiguousarray(pixels[:, :, order])
