"""Files, bytes and a camera's arrays -> uint8 RGB; masks -> bool.

The dtype decides the scaling (16 bit is divided by 257), never the content.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .container import DecodeError, check_container, tiff_multiplies

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

if "OPENCV_LOG_LEVEL" not in os.environ:
    # What goes wrong in a decoder is told by ImageError, not by lines in the user's terminal.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(data: bytes, name: str = "image") -> NDArray[np.uint8]:
    """Bytes of an image file -> uint8 RGB (H, W, 3), EXIF orientation applied, alpha dropped.

    PNG, JPEG, BMP, TIFF and WebP; 8 or 16 bit (divided by 257 and rounded); grey, RGB, RGBA,
    palette. Raises DecodeError (an ImageError) that says empty, truncated or not an image.
    """
    check_container(data, name)
    buffer, flags = np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        bgr = cv2.imdecode(buffer, flags)  # honours the EXIF orientation
        # Where there is none, perhaps only because OpenCV knows no colours of this type.
        found = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if bgr is None else bgr
    except (cv2.error, MemoryError) as error:
        raise DecodeError(name, "unreadable", f"OpenCV cannot decode it ({error})") from None
    if found is not None and found.dtype not in (np.uint8, np.uint16):
        detail = f"{found.dtype} pixels are not supported; save it with 8 or 16 bits per channel"
        raise DecodeError(name, "unsupported type", detail)
    if bgr is None:
        detail = f"damaged: {len(data)} bytes that cannot be decoded; save or copy it again"
        raise DecodeError(name, "unreadable", detail)
    if bgr.dtype == np.uint8 and tiff_multiplies(data):
        whole = np.asarray(cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED))
        # Of grey with alpha the grey comes as it is.
        if whole.ndim == 3 and (whole[:, :, 3:] < 255).any():
            detail = (
                "a TIFF's transparent colours are read multiplied by their alpha; save it as PNG"
            )
            raise DecodeError(name, "unsupported type", detail)
    return to_rgb8(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def read(path: Path) -> NDArray[np.uint8]:
    """Decode one file; raises ImageError if it is missing or no complete image."""
    return decode(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The file's bytes; raises DecodeError if it cannot be opened, or is no file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe waits for whoever writes to it
            detail = "cannot be opened: expected a file, it is a folder, a pipe or a device"
            raise DecodeError(str(path), "unreadable", detail)
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(str(path), "unreadable", f"cannot be opened: {reason}") from None


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A defect mask as bool (H, W): pixels above half of the file's brightest value.

    So masks of 0/1, 0/255 and antialiased ones all read alike; an all-black one is all False. A
    file without brighter values than 31 holds numbers of defect kinds, and each of them counts.
    """
    grey = read(path).max(axis=2)
    brightest = int(grey.max())
    return np.asarray(grey > (brightest // 2 if brightest > 31 else 0), dtype=np.bool_)


def to_rgb8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A camera's array (H, W) or (H, W, 1|3|4), uint8 or uint16, -> uint8 RGB (H, W, 3).

    uint16 is divided by 257 and rounded, whatever it holds. Raises ImageError on anything else.
    """
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"expected uint8 or uint16 pixels, got {array.dtype}; scale them first")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"expected an array (H, W) or (H, W, 1, 3 or 4), got {array.shape}")
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) + 128) // 257
    plain = np.ascontiguousarray(array[:, :, :3] if array.shape[2] >= 3 else array, dtype=np.uint8)
    if plain.shape[2] == 3:
        return plain
    return np.asarray(cv2.cvtColor(plain, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
