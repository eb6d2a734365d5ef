"""A calibrated run of a small untrained model: export does not ask how good a model is."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sanflow import imaging
from sanflow.calibration.calibrate import calibrate
from sanflow.config import RunConfig
from sanflow.data.config import DataConfig
from sanflow.imaging import Roi
from sanflow.model.config import SanflowConfig
from sanflow.model.methods import METHODS
from sanflow.model.sanflow import SANFlow
from sanflow.model.weights import WeightsInfo
from sanflow.run import DataRecord, Progress, Run, RunRecord, write_run

torch.set_num_threads(1)

SMALL = {"extractor": "resnet18", "taps": (4, 8), "position_dim": 16, "blocks": 2, "head_width": 8}


def small_model(method: str = "sanflow", **changes: object) -> Any:
    """An untrained model on images of 64 x 96 with shaken weights, m_k fitted to noise."""
    values = {**SMALL, "height": 64, "width": 96, **changes}
    kind, made = METHODS[method]
    names = {field.name for field in fields(kind)}
    config = kind(method=method, **{k: v for k, v in values.items() if k in names})  # type: ignore[arg-type]
    model = made(config, seed=3).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for part in (*model.flows, *model.scalers):
            for parameter in part.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    model.fit_feature_scale([noise(4, model)])
    model.fit_level_max([noise(4, model)])
    return model


def noise(count: int, model: Any, seed: int = 0) -> torch.Tensor:
    """Images uint8 (count, H, W, 3) of that model's size: smooth shapes, some of them strange."""
    rng = np.random.default_rng(seed)
    size = (count, model.config.height // 8, model.config.width // 8, 3)
    coarse = rng.integers(0, 256, size).astype(np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    images[count // 2 :] //= 3
    return torch.from_numpy(images)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on nothing, calibrated on 12 photographs of odd size with a region of interest."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(7)
    entries = []
    for index in range(20):
        grey = rng.normal(120, 12 + index % 3, (90, 131)).clip(0, 255).astype(np.uint8)
        image = np.repeat(grey[:, :, None], 3, axis=2)
        imaging.write_png(root / f"{index:02d}.png", image)
        digest = hashlib.sha256((root / f"{index:02d}.png").read_bytes()).hexdigest()
        entries.append((f"{index:02d}.png", digest))
    config = RunConfig(
        model=SanflowConfig(**SMALL, height=64, width=64),  # type: ignore[arg-type]
        data=DataConfig(roi=Roi(5, 3, 120, 80)),
        weights="none",
    )
    roles = {"train": tuple(entries[:8]), "calibrate": tuple(entries[8:]), "test": ()}
    record = RunRecord(
        config=config,
        data=DataRecord(str(root), "folder", "0" * 64, roles),
        weights=WeightsInfo("none"),
        progress=Progress(finished=True),
    )
    made = write_run(tmp_path_factory.mktemp("run"), record, SANFlow(config.model).eval())
    calibrate(made)
    return made


@pytest.fixture
def data(run: Run) -> Path:
    """Where that run's images lie."""
    return Path(run.record.data.root)
