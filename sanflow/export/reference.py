"""PyTorch's side of parity: the run's own model, on the CPU in FP32, one image at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import InputError
from ..model.method import Method
from ..run import MODEL, Run
from ..runtime.parity import Reference


def torch_reference(model: Method[Any]) -> Reference:
    """A callable from model input (H, W, 3) to PyTorch's raw score and anomaly map (H, W)."""
    model = model.eval()

    def judge(image: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        with torch.inference_mode():
            score, heat = model(torch.from_numpy(np.ascontiguousarray(image))[None])
        return float(score[0]), heat[0].numpy()

    return judge


def run_reference(run: Run, bundle: Bundle) -> Reference:
    """The same of a run's model; raises InputError if the bundle was not exported from it."""
    path = run.path / MODEL
    if not path.is_file():
        raise InputError(f"run {run.path}: no {MODEL}; give the run that was exported")
    found = _sha256(path)
    wanted = bundle.manifest.model.checkpoint_sha256
    if found != wanted:
        raise InputError(
            f"run {run.path}: its {MODEL} is {found[:12]}..., the bundle was exported from "
            f"{wanted[:12]}...; give the run that was exported, or export this one"
        )
    return torch_reference(run.model())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
