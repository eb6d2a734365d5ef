"""Pixels out again: PNG files, the anomaly map over its image, and the hash of pixels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError


def pixel_sha256(image: NDArray[np.uint8]) -> str:
    """The hash of an image's shape and pixels, the same however its file was encoded."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def overlay(
    image: NDArray[np.uint8],
    heat: NDArray[np.float32],
    low: float,
    high: float,
    threshold: float | None = None,
) -> NDArray[np.uint8]:
    """The image (H, W, 3) with the anomaly map over it: clear at `low`, glowing at `high`.

    The map is resized to the image; a contour marks where it passes `threshold`.
    """
    height, width = image.shape[:2]
    finite = np.nan_to_num(heat.astype(np.float32), nan=high, posinf=high, neginf=low)
    finite = np.asarray(cv2.resize(finite, (width, height), interpolation=cv2.INTER_LINEAR))
    level = np.clip((finite - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    colour = cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    colour = cv2.cvtColor(colour, cv2.COLOR_BGR2RGB)
    alpha = 0.65 * np.sqrt(level)[:, :, None]
    out = np.asarray(np.rint(image * (1 - alpha) + colour * alpha), dtype=np.uint8)
    if threshold is not None:
        above = (finite > threshold).astype(np.uint8)
        contours, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        thickness = max(1, round(min(height, width) / 256))
        cv2.drawContours(out, contours, -1, (255, 255, 255), thickness)
    return out


def encode_png(rgb: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """RGB (H, W, 3), or grey (H, W), of 8 or 16 bits, as the bytes of a PNG file."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if rgb.ndim == 3 else rgb
    done, data = cv2.imencode(".png", bgr)
    if not done:
        raise ImageError(f"cannot encode an array of {rgb.dtype} {rgb.shape} as PNG")
    return data.tobytes()


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a PNG so that a reader sees the old file or the whole new one, never half of it."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(encode_png(rgb))
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # not the name nobody chose
    finally:
        part.unlink(missing_ok=True)
