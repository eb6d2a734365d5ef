"""A small sweep, results without a training, and a worker that does nothing but what it is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sanflow import schema
from sanflow.sweep import process
from sanflow.sweep.config import Sweep, read_sweep
from sanflow.sweep.folder import Result
from sanflow.sweep.plan import check_data, plan

TINY = """
presets = ["edge"]
seeds = [0, 1]

[[data]]
root = "{root}"
name = "parts"

[set]
weights = "none"
model = {{ height = 64, width = 64, position_dim = 16, blocks = 2, head_width = 8 }}
optim = {{ epochs = 2 }}
pretext = {{ steps = 2 }}
"""


@pytest.fixture
def toml(parts: Path, tmp_path: Path) -> Path:
    """The file of a sweep of two tiny cells."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(root=parts.as_posix()), encoding="utf-8")
    return path


@pytest.fixture
def tiny(toml: Path) -> Sweep:
    """The same, read."""
    return read_sweep(toml)


def result(fingerprint: str = "f", **metrics: float | None) -> Result:
    """A result with these metrics."""
    return Result(
        created="2025-01-01T00:00:00+00:00",
        versions={"torch": "1"},
        host="here",
        fingerprint=fingerprint,
        images={"train": 5, "calibrate": 2, "test": 4, "good": 2, "defective": 2},
        metrics={"image": 0.9, "pixel": 0.8, "aupro": 0.7, "image_ap": 0.9, "aupro_cflow": None}
        | metrics,
        parity={"flips": 0.0, "score": 1e-6, "map": 1e-6},
        seconds={"train": 90.0, "calibrate": 1.0, "export": 2.0, "verify": 1.0, "evaluate": 1.0},
        parameters={"trained": 2_000_000, "all": 13_000_000},
        peak_memory=1000.0,
        peak_gpu_memory=None,
        attempts=1,
    )


@pytest.fixture
def fake_worker(
    tiny: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Replaces the process of a cell; what it does is decided by files in `orders`.

    `orders/CELL.kill`, `.fail`, `.exit` and `.sleep` are done once, by the cell that they name.
    """
    orders = tmp_path / "orders"
    orders.mkdir()
    (fingerprint,) = set(check_data(plan(tiny)).values())
    (orders / "result.json").write_text(json.dumps(schema.dump(result(fingerprint))))
    script = Path(__file__).with_name("fake_worker.py")
    monkeypatch.setattr(process, "COMMAND", (sys.executable, str(script), str(orders)))

    def order(name: str) -> Path:
        path = orders / name
        path.touch()
        return path

    return order
