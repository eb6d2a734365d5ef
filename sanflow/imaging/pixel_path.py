"""Image -> region of interest -> the model's size: what every picture goes through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .reading import read, read_mask, to_rgb8

FEWEST = 16
"""An image has at least one pixel per so many of the model's, in height and in width."""
ASPECT, AREA = 1.1, 4.0
"""What is another shape: proportions, or pixels, that differ by more than this factor."""


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
