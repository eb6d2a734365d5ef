"""A run of a tiny untrained model on a few good images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sanflow.config import RunConfig
from sanflow.imaging import write_png
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.model.weights import WeightsInfo
from sanflow.run import DataRecord, Run, RunRecord, write_run

MODEL = SanflowConfig(
    extractor="resnet18", height=64, width=64, position_dim=16, blocks=2, head_width=8
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Six training and nine calibration images of 70 x 80 pixels, in tmp_path/data."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    roles: dict[str, tuple[tuple[str, str], ...]] = {}
    for role, count in (("train", 6), ("calibrate", 9)):
        folder = tmp_path / "data" / role / "good"
        folder.mkdir(parents=True)
        entries = []
        for i in range(count):
            path = folder / f"{i}.png"
            write_png(path, rng.integers(80, 120, (80, 70, 3)).astype(np.uint8))
            name = path.relative_to(tmp_path / "data").as_posix()
            entries.append((name, hashlib.sha256(path.read_bytes()).hexdigest()))
        roles[role] = tuple(entries)
    record = RunRecord(
        config=RunConfig(model=MODEL),
        data=DataRecord(str(tmp_path / "data"), "mvtec", "0" * 64, roles),
        weights=WeightsInfo("none"),
    )
    return write_run(tmp_path / "run", record, SANFlow(MODEL, seed=3))
