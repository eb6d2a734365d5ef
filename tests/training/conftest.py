"""Tiny parts, weights for a tiny extractor, and a configuration that trains in seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sanflow.config import RunConfig
from sanflow.model.extractor import build_extractor
from sanflow.training.presets import load_config

torch.set_num_threads(1)

TRAIN, CALIBRATE, TEST = 20, 4, 3


def write_part(path: Path, seed: int) -> None:
    """A 48 x 80 part: a bright disc on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (48, 80, 3)).astype(np.uint8)
    centre = (40 + int(rng.integers(-3, 4)), 24)
    cv2.circle(image, centre, 15, (200, 180, 160), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Good parts in the three roles, MVTec AD layout."""
    root = tmp_path / "parts"
    roles = {"train/good": TRAIN, "calibrate/good": CALIBRATE, "test/good": TEST}
    for offset, (folder, count) in enumerate(roles.items()):
        for i in range(count):
            write_part(root / folder / f"{i:03}.png", 1000 * offset + i)
    return root


@pytest.fixture
def small_disk(make_disk: Callable[[int], Path]) -> Path:
    """A file system of 4 MB."""
    return make_disk(4)


@pytest.fixture
def fill(small_disk: Path) -> Callable[[], Path]:
    """Leaves no room on it, and gives the file to remove when there shall be some again."""

    def filled() -> Path:
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        return filler

    return filled


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file for the extractor of `config`, drawn at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # not a seed of any model here
        extractor = build_extractor("mobilenet_v2", (4, 8), "zeros")
    tensors = {
        extractor.prefix + k.removeprefix("body."): v for k, v in extractor.state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def config(weights: Path) -> RunConfig:
    """Four epochs of three steps on 64-pixel images."""
    return load_config(
        "edge",
        None,
        {
            "model.extractor": "mobilenet_v2",
            "model.taps": (4, 8),
            "model.height": 64,
            "model.width": 64,
            "model.position_dim": 16,
            "model.blocks": 2,
            "model.head_width": 4,
            "optim.epochs": 4,
            "optim.positions": 0.5,
            "optim.precision": "fp32",
            "weights": str(weights),
        },
    )
