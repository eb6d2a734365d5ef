"""Small data sets on disk, every image different from all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow.imaging import write_png

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes one image of its own noise below the root, and returns its path."""
    count = iter(range(1000))

    def image(name: str, height: int = 6, width: int = 8, mask: bool = False) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(next(count))
        pixels: NDArray[np.uint8] = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if mask:
            pixels[:] = 0
            pixels[1:3, 2:5] = 255
        write_png(path, pixels)
        return path

    return image


@pytest.fixture
def mvtec(tmp_path: Path, write: Write) -> Path:
    """20 good parts to train, 2 good and 2 scratched ones to test, with masks."""
    for i in range(20):
        write(f"train/good/{i:03d}.png")
    for i in range(2):
        write(f"test/good/{i:03d}.png")
        write(f"test/scratch/{i:03d}.png")
        write(f"ground_truth/scratch/{i:03d}_mask.png", mask=True)
    return tmp_path
