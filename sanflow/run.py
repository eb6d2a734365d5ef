"""The trained artefact on disk, from training to export.

    RUN/run.json            what shaped the run: configuration, data, weights, versions, progress
    RUN/model.safetensors   the whole model, extractor and buffers included
    RUN/calibration.json    scores of held-out good parts (calibration)
    RUN/checkpoint.pt, metrics.csv, tensorboard/    of training

Files are replaced whole: a crash leaves the old one or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from . import __version__, schema
from .config import RunConfig
from .errors import InputError, writing
from .imaging import PixelPath
from .model.method import Method
from .model.methods import build
from .model.weights import WeightsInfo

RECORD, MODEL = "run.json", "model.safetensors"


@dataclass(frozen=True)
class DataRecord:
    """The data a run was made with: where it lay, and every image of every role by its hash."""

    root: str
    layout: str
    fingerprint: str
    roles: dict[str, tuple[tuple[str, str], ...]]
    """`train`, `calibrate`, `test`: pairs of path relative to the root and sha256."""
    size: tuple[int, int] | None = None
    """(height, width) of the good images, where all have the same."""
    parts: dict[str, str] = field(default_factory=dict)
    """Of calibrate images by path: the part that they show, where that is known."""


@dataclass(frozen=True)
class Progress:
    """How far training came."""

    epochs_done: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Compute:
    """Where training ran; a resumed run keeps it, for it too decides the numbers."""

    device: str = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    processes: int = 1


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """The software that shapes a run's numbers."""
    return {
        "sanflow": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


@dataclass(frozen=True)
class RunRecord:
    """All of run.json."""

    config: RunConfig
    data: DataRecord
    weights: WeightsInfo
    progress: Progress = field(default_factory=Progress)
    created: str = field(default_factory=now)
    versions: dict[str, str] = field(default_factory=versions)
    compute: Compute = field(default_factory=Compute)
    schema: Literal["sanflow.run/2"] = "sanflow.run/2"


@dataclass(frozen=True)
class Run:
    """A run folder that was opened."""

    path: Path
    record: RunRecord

    @property
    def config(self) -> RunConfig:
        """Everything that was chosen for this run."""
        return self.record.config

    @property
    def pixel_path(self) -> PixelPath:
        """How this run's images become model input."""
        model, roi = self.config.model, self.config.data.roi
        return PixelPath(model.height, model.width, roi, self.record.data.size)

    def model(self) -> Method[Any]:
        """The trained model in eval mode on the CPU.

        Raises InputError when its file is missing, damaged, or of another configuration.
        """
        path = self.path / MODEL
        if not path.is_file():
            raise InputError(f"run {self.path}: no {MODEL}; train it first")
        model = build(self.config.model)
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]  # torch lists every key
            raise InputError(f"run {self.path}: {MODEL} cannot be used: {reason}") from error
        return model.eval()


def open_run(path: Path) -> Run:
    """Open a run folder; raises InputError when it is none, ConfigError on a bad field."""
    file = path / RECORD
    if not file.is_file():
        raise InputError(f"{path} is not a run: no {RECORD} in it; make one with `sanflow train`")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    return Run(path, schema.load(RunRecord, values, RECORD))


def write_run(path: Path, record: RunRecord, model: Method[Any]) -> Run:
    """Write record and model into the folder `path`, each file atomically; makes the folder."""
    path.mkdir(parents=True, exist_ok=True)
    write_model(path, model)
    text = json.dumps(schema.dump(record), indent=1, ensure_ascii=False) + "\n"
    replace_file(path / RECORD, lambda file: file.write_text(text, encoding="utf-8"))
    return Run(path, record)


def write_model(path: Path, model: Method[Any]) -> None:
    """Replace the model file of the run folder `path`."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}

    def write(file: Path) -> None:
        try:
            save_file(tensors, file)
        except SafetensorError as error:
            refused = re.search(r"I/O error: (.+?)(?: \(os error \d+\))?$", str(error))
            if refused is None:
                raise
            raise OSError(refused[1]) from error

    replace_file(path / MODEL, write)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place, safe against power loss.

    Raises InputError where it cannot be written; `path` is then what it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            partial.touch()
            mode = partial.stat().st_mode
            write(partial)
            partial.chmod(mode)  # safetensors makes its files readable by their owner only
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        if os.name == "posix":  # elsewhere a folder cannot be opened, and need not be
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
