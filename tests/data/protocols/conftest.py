"""Tiny trees of the true layouts of the public data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a picture of its own noise, or a mask with a 3 x 2 defect, in its suffix's format."""
    count = iter(range(10_000))

    def image(name: str, mask: int | None = None, height: int = 12, width: int = 16) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(next(count)).integers(0, 256, (height, width, 3), np.uint8)
        if mask is not None:
            pixels = np.zeros((height, width), np.uint8)
            pixels[2:5, 3:5] = mask
        done, data = cv2.imencode(path.suffix, pixels)
        assert done
        path.write_bytes(data.tobytes())
        return path

    return image


@pytest.fixture
def mvtec_ad(tmp_path: Path, put: Put) -> Path:
    """Two of the fifteen categories."""
    for category in ("bottle", "screw"):
        for i in range(10):
            put(f"{category}/train/good/{i:03d}.png")
        for i in range(2):
            put(f"{category}/test/good/{i:03d}.png")
            put(f"{category}/test/scratch/{i:03d}.png")
            put(f"{category}/ground_truth/scratch/{i:03d}_mask.png", mask=255)
    (tmp_path / "license.txt").write_text("CC BY-NC-SA")
    return tmp_path


@pytest.fixture
def visa(tmp_path: Path, put: Put) -> Path:
    """One object of VisA; its masks hold numbers of defect kinds."""
    lines = ["object,split,label,image,mask"]
    for i in range(8):
        name = f"candle/Data/Images/Normal/{i:04d}.JPG"
        put(name)
        lines.append(f"candle,{'train' if i < 6 else 'test'},normal,{name},")
    for i in range(2):
        name, mask = f"candle/Data/Images/Anomaly/{i:03d}.JPG", f"candle/Data/Masks/Anomaly/{i}.png"
        put(name)
        put(mask, mask=3)
        lines.append(f"candle,test,anomaly,{name},{mask}")
    lines.append("pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def btad(tmp_path: Path, put: Put) -> Path:
    """Two of BTAD's three products, each in its own file formats."""
    for product, image, mask in (("01", "bmp", "png"), ("02", "png", "png")):
        for i in range(6):
            put(f"{product}/train/ok/{i:04d}.{image}")
        put(f"{product}/test/ok/0000.{image}")
        put(f"{product}/test/ko/0000.{image}")
        put(f"{product}/ground_truth/ko/0000.{mask}", mask=255)
    return tmp_path


@pytest.fixture
def mtd(tmp_path: Path, put: Put) -> Path:
    """Ten tiles under six lamps each, and one defect of each kind beside a good tile."""
    for tile in range(10):
        for lamp in range(6):
            name = f"MT_Free/Imgs/exp{lamp + 1}_num_{1000 * (tile + 1) + 20 * lamp}"
            put(f"{name}.jpg")
            put(f"{name}.png", mask=0)
    for index, kind in enumerate(("Blowhole", "Break", "Crack", "Fray", "Uneven")):
        name = f"MT_{kind}/Imgs/exp1_num_{50_000 + 1000 * index}"
        put(f"{name}.jpg")
        put(f"{name}.png", mask=255)
    names = [
        f"exp{lamp + 1}_num_{1000 * (t + 1) + 20 * lamp}" for t in range(10) for lamp in (0, 2)
    ]
    (tmp_path / "mtd_train_filenames.txt").write_text("\n".join(f"{n}.jpg" for n in names))
    return tmp_path


@pytest.fixture
def class_folders(tmp_path: Path, put: Put) -> Path:
    """Three classes of six training and two test pictures."""
    for name in ("cat", "dog", "frog"):
        for i in range(6):
            put(f"train/{name}/{i}.png")
        for i in range(2):
            put(f"test/{name}/{i}.png")
    return tmp_path
