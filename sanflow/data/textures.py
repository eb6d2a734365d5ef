"""Synthetic defects of textures: blots of a foreign picture blended into a good one (methods 7).

The picture is one of the user's folder of textures or another good part, changed in colour and
light. What is to be learned is a soft label: the more a blot changes the part, the nearer to 1.
Every random choice follows from (seed, epoch, step) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, InputError
from ..imaging import IMAGE_SUFFIXES, read
from .augment import augment
from .config import TextureConfig
from .foreground import foreground
from .perlin import blots
from .samples import files_in

Image = NDArray[np.uint8]
Rng = np.random.Generator
STEEPNESS = 5.0
"""Of the soft label: sigmoid(5 d) of a mean difference d of pixels in 0 .. 1."""


@dataclass(frozen=True)
class TextureSynthesiser:
    """Turns good images of one size into images with textured blots, and their soft labels."""

    config: TextureConfig
    height: int
    width: int
    seed: int

    def batch(
        self,
        normals: Sequence[Image],
        sources: Sequence[Image],
        epoch: int,
        step: int,
    ) -> tuple[Image, NDArray[np.float32]]:
        """Images uint8 (B, H, W, 3) and labels in 0 .. 1 (B, H, W): 0 where nothing was changed.

        `normals` are B good images, `sources` others whose content may be blended in.
        """
        shape = (self.height, self.width, 3)
        for image in (*normals, *sources):
            if image.shape != shape or image.dtype != np.uint8:
                raise InputError(f"expected uint8 {shape}, got {image.dtype} {image.shape}")
        rng = np.random.default_rng((self.seed, epoch, step))
        made = [self._defect(image, sources, rng) for image in normals]
        return np.stack([image for image, _ in made]), np.stack([label for _, label in made])

    def _defect(
        self,
        good: Image,
        sources: Sequence[Image],
        rng: Rng,
    ) -> tuple[Image, NDArray[np.float32]]:
        config = self.config
        picture = augment(self._picture(good, sources, rng), rng)
        mask = blots(self.height, self.width, config.grains, config.threshold, rng)
        mask &= foreground(good, config.foreground, fill_holes=config.fill_holes)
        kept = float(rng.uniform(0, config.most_kept))
        changed = bool(rng.random() < config.share)
        label = np.zeros(mask.shape, np.float32)
        if not changed or not mask.any():
            return good, label
        blended = np.asarray(cv2.addWeighted(picture, 1 - kept, good, kept, 0), np.uint8)
        image = np.where(mask[..., None], blended, good)
        label[mask] = self._label(image, good, mask)
        return image, label

    def _label(self, image: Image, good: Image, mask: NDArray[np.bool_]) -> float:
        """One number per image: the mean over the blots of sigmoid(5 |mean difference|)."""
        difference = (image[mask].astype(np.float64) - good[mask]).mean(axis=1) / 255
        if self.config.label == "absolute":
            difference = np.abs(difference)
        return float((1 / (1 + np.exp(-STEEPNESS * difference))).mean())

    def _picture(
        self,
        good: Image,
        sources: Sequence[Image],
        rng: Rng,
    ) -> Image:
        others = [s for s in sources if s is not good] or list(sources)
        files = texture_files(self.config.folder) if self.config.folder else ()
        own = bool(rng.random() < self.config.own) or not files
        if own and others:
            return others[rng.integers(len(others))]
        if not files:
            raise InputError("textured defects need a folder of textures or another good image")
        return _texture(files[rng.integers(len(files))], self.height, self.width)


@lru_cache(maxsize=8)
def texture_files(folder: str) -> tuple[Path, ...]:
    """The images in `folder` and below it; DataError when there is no such folder or image."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder of textures; give a folder of pictures, such as those of the "
            "Describable Textures Dataset, as hybrid.textures.folder, or '' to use the parts alone"
        )
    files = tuple(files_in(root, IMAGE_SUFFIXES))
    if not files:
        raise DataError(f"{root}: no image in this folder of textures or below it")
    return files


@lru_cache(maxsize=512)
def _texture(path: Path, height: int, width: int) -> Image:
    """A texture resized to the model's input, kept for the next time."""
    image = read(path)
    area = image.shape[0] * image.shape[1] > height * width
    way = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)
