"""Images to encode, and the bytes of their files."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


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


def with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    """The JPEG with an APP1 segment that states an orientation, and perhaps holds more bytes."""
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + tag + struct.pack("<I", 0)
    body = b"Exif\0\0" + tiff + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
