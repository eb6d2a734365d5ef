"""The one way pixels become model input: decode, region of interest, resize, colour; and back out.

Training, calibration, evaluation, export and runtime all use these functions, so that no two of
them can see different pixels. The dtype decides the scaling (16 bit is divided by 257), never the
content. A file is checked for completeness before OpenCV sees it, because OpenCV's decoders differ
between versions in what they do with a truncated one: some return half a picture.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

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

if "OPENCV_LOG_LEVEL" not in os.environ:
    # What goes wrong in a decoder is told by ImageError, not by lines in the user's terminal.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


FEWEST = 16
"""An image has at least one pixel per so many of the model's, in height and in width."""
ASPECT, AREA = 1.1, 4.0
"""What is another shape: proportions, or pixels, that differ by more than this factor."""


class DecodeError(ImageError):
    """A file that is no complete picture; `problem` is one of check_dataset's words."""

    def __init__(self, name: str, problem: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.problem = problem
        self.detail = detail


@dataclass(frozen=True)
class Roi:
    """A region of interest in pixels of the decoded image (after EXIF orientation)."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            raise ValueError(
                f"roi x={self.x} y={self.y} width={self.width} height={self.height}: "
                "x and y must not be negative, width and height at least 1"
            )

    def outside(self, height: int, width: int) -> bool:
        """Whether the region does not lie wholly inside an image of this size."""
        return self.x + self.width > width or self.y + self.height > height


@dataclass(frozen=True)
class PixelPath:
    """Image of any size -> region of interest -> exactly `height` x `width`."""

    height: int
    width: int
    roi: Roi | None = None
    original: tuple[int, int] | None = None
    """(height, width) that every picture had which the model learned from; None if they vary."""

    def __post_init__(self) -> None:
        if self.original is not None and min(self.original) < 1:
            raise ValueError(f"original {self.original} must be at least 1 x 1")
        if self.original and self.roi and self.roi.outside(*self.original):
            raise ValueError(f"roi {self.roi} is outside the original {self.original}")

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) -> uint8 (height, width, 3).

        Raises ImageError if the ROI is outside, or the image has another shape than those that
        the model learned from: with an ROI, which is in pixels, any other size.

        Each axis is filtered for itself: area when it shrinks, so that nothing aliases, bilinear
        when it grows. An image that already has the size passes unchanged.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(
                f"expected a uint8 image of shape (H, W, 3), got {image.dtype} {image.shape}; "
                "convert camera arrays with to_rgb8"
            )
        return np.ascontiguousarray(self._fit(image))

    def camera(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """A camera's array, as `to_rgb8` takes it -> uint8 (height, width, 3).

        The bits of `self(to_rgb8(array))`; a grey picture gets its colours when it is small.
        """
        if array.dtype == np.uint8 and array.ndim == 2 and array.size:
            return _u8(cv2.cvtColor(np.ascontiguousarray(self._fit(array)), cv2.COLOR_GRAY2RGB))
        return self(to_rgb8(array))

    def load(self, path: Path) -> NDArray[np.uint8]:
        """Read the file and bring it to size; raises ImageError naming the file."""
        image = read(path)
        try:
            return self(image)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool (H, W) -> bool (height, width) by nearest pixel centre, with the same ROI.

        Nearest keeps a defect's area unbiased, as the reference metrics do (methods 1.6); a
        defect thinner than the shrinking factor can vanish, as it may for the model too.
        """
        cropped = np.ascontiguousarray(self._crop(mask)).view(np.uint8)
        if cropped.shape != (self.height, self.width):
            size = (self.width, self.height)
            cropped = _u8(cv2.resize(cropped, size, interpolation=cv2.INTER_NEAREST_EXACT))
        return cropped.astype(np.bool_)

    def load_mask(self, path: Path, image: Path) -> NDArray[np.bool_]:
        """Read the defect mask of an image's file and bring it to size.

        Raises ImageError naming the file, also where the mask has another size than its image.
        """
        mask, (height, width) = read_mask(path), read(image).shape[:2]
        if mask.shape != (height, width):
            raise ImageError(
                f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, its image {image.name} "
                f"{width}x{height} (width x height); make it again at the image's size"
            )
        try:
            return self.mask(mask)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None

    def _fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The region of interest at the model's size, whatever the channels."""
        if problem := self._foreign(image.shape[:2]):
            raise ImageError(problem)
        image = self._crop(image)
        if problem := too_few(image.shape[:2], (self.height, self.width)):
            raise ImageError(problem)
        image = _shrink(image, min(image.shape[0], self.height), min(image.shape[1], self.width))
        if image.shape[:2] != (self.height, self.width):
            size = (self.width, self.height)
            image = _u8(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT))
        return image

    def _foreign(self, size: tuple[int, ...]) -> str:
        """What is wrong with a picture of this (height, width), by those learned from."""
        if self.original is None or size == self.original:
            return ""
        seen, usual = (f"{width}x{height}" for height, width in (size, self.original))
        if self.roi is not None:
            return (
                f"the picture is {seen} (width x height), the region of interest was chosen on "
                f"pictures of {usual}: set the camera to that size"
            )
        if not another_shape(size, self.original):
            return ""
        return (
            f"the picture is {seen} (width x height), the model learned from pictures of {usual}: "
            f"set the camera to that size, or to its proportions and at most {AREA:g} times as "
            "many or few pixels"
        )

    def _crop(self, image: NDArray[Any]) -> NDArray[Any]:
        if self.roi is None:
            return image
        r, (height, width) = self.roi, image.shape[:2]
        if r.outside(height, width):
            raise ImageError(
                f"the region of interest x {r.x}..{r.x + r.width}, y {r.y}..{r.y + r.height} is "
                f"outside this image of {width} x {height} pixels (width x height)"
            )
        return image[r.y : r.y + r.height, r.x : r.x + r.width]


def too_few(image: tuple[int, ...], model: tuple[int, int]) -> str:
    """What is wrong with an image of this (height, width) for a model's; empty if nothing is."""
    if FEWEST * image[0] >= model[0] and FEWEST * image[1] >= model[1]:
        return ""
    seen, given = (f"{width}x{height}" for height, width in (model, image))
    return f"{given} pixels (width x height) are too few for a model that sees {seen}"


def another_shape(size: tuple[int, ...], usual: tuple[int, int]) -> bool:
    """Whether a (height, width) has other proportions than another, or hardly its pixels."""
    aspect = size[0] / size[1] * usual[1] / usual[0]
    area = size[0] * size[1] / (usual[0] * usual[1])
    return max(aspect, 1 / aspect) > ASPECT or max(area, 1 / area) > AREA


def decode(data: bytes, name: str = "image") -> NDArray[np.uint8]:
    """Bytes of an image file -> uint8 RGB (H, W, 3), EXIF orientation applied, alpha dropped.

    PNG, JPEG, BMP, TIFF and WebP; 8 or 16 bit (divided by 257 and rounded); grey, RGB, RGBA,
    palette. Raises DecodeError (an ImageError) that says empty, truncated or not an image.
    """
    _check_container(data, name)
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
    if bgr.dtype == np.uint8 and _tiff_multiplies(data):
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
    return plain if plain.shape[2] == 3 else _u8(cv2.cvtColor(plain, cv2.COLOR_GRAY2RGB))


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
    out = _u8(np.rint(image * (1 - alpha) + colour * alpha))
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


def _u8(array: object) -> NDArray[np.uint8]:
    return np.asarray(array, dtype=np.uint8)


def _shrink(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    down, across = image.shape[0] / height, image.shape[1] / width
    if down == across == 1:
        return image
    whole = down.is_integer() and across.is_integer()
    # OpenCV rounds blocks of 2 x 2 in another way, and is fast there; 257 bytes fit into 16 bits.
    if whole and down * across <= 257 and not down == across == 2:
        return _block_means(image, int(down), int(across))
    return _u8(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _block_means(image: NDArray[np.uint8], down: int, across: int) -> NDArray[np.uint8]:
    """OpenCV's area filter for blocks of `down` x `across` pixels, the same bits in less time."""
    height, width = image.shape[0] // down, image.shape[1] // across
    rows = image.reshape(height, down, -1).sum(axis=1, dtype=np.uint16)
    blocks = rows.reshape(height, width, across, -1)
    sums = np.empty((height, width, blocks.shape[3]), np.uint16)
    for channel in range(sums.shape[2]):
        total = blocks[:, :, 0, channel].copy()
        for column in range(1, across):
            total += blocks[:, :, column, channel]
        sums[:, :, channel] = total
    means = cv2.convertScaleAbs(sums, alpha=1 / (down * across))
    return _u8(means).reshape(height, width, *image.shape[2:])


def _check_container(data: bytes, name: str) -> None:
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


def _tiff_multiplies(data: bytes) -> bool:
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
