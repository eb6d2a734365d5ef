"""One cell: train, calibrate, export, verify, evaluate, and the figures of it.

Every step is the function that its own command calls. The rule is the same for every cell: the last
epoch counts, the constants of the score come from training images, nothing is chosen on the test.
"""

from __future__ import annotations

import csv
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..bundle import Bundle
from ..calibration.calibrate import Calibration, calibrate, load_calibration
from ..calibration.threshold import usual_rate
from ..data.layout import GOOD, Dataset, Sample, open_dataset
from ..errors import CalibrationError, ParityError
from ..evaluation.evaluate import evaluate
from ..evaluation.report import write_report
from ..evaluation.result import Evaluation
from ..evaluation.subject import run_scorer, run_subject, seen_images
from ..export.asked import known_precision, known_target
from ..export.export import export_run
from ..export.reference import run_reference
from ..run import Run, now, versions
from ..runtime.parity import VerifyReport, verify
from ..training.log import METRICS, Status
from ..training.train import train
from .folder import CellFolder, Result
from .plan import Cell

VERIFIED = 32
"""Test images, spread over all of them, that the exported graph must judge as PyTorch does."""


def run_cell(folder: CellFolder, say: Callable[[str], None]) -> Result:
    """Do what is left of a cell and write its result; `say` is told of every step.

    Raises whatever a step raises; what is finished then stays and is not done again.
    """
    cell, clock = folder.cell, _Clock(say)
    torch.set_num_threads(cell.threads)
    known_precision(cell.precision, known_target(cell.target))  # hours before it is exported
    with clock("train"):
        run = train(
            Path(cell.root),
            folder.path / "run",
            cell.config,
            resume=True,
            skip_bad=cell.skip_bad,
            device=cell.device,
            progress=_Epochs(say),
        )
    device = "cuda" if run.record.compute.device == "cuda" else "cpu"
    with clock("calibrate"):
        calibration = _calibrated(run, device)
    rate = usual_rate(len(calibration.part_scores))
    with clock("export"):
        bundle = export_run(
            run,
            folder.path / "bundle",
            cell.target,
            precision=cell.precision,
            false_alarm_rate=rate,
            force=True,
            tell=say,
        )
    dataset, samples = _test_images(run)
    with clock("verify"):
        parity = _verified(run, bundle, samples, cell.threads)
    with clock("evaluate"):
        found = evaluate(
            samples,
            run_scorer(run, device),
            run.pixel_path,
            decision=calibration.decision(rate),
            localises=run.config.model.localises,
            subject=run_subject(run),
            root=dataset.root,
            seen=seen_images(run),
        )
        write_report(
            found, samples, run_scorer(run, device), run.pixel_path, folder.path / "report"
        )
    # A training that was stopped and went on: its epochs know their time, wherever they ran.
    clock.seconds["train"] = max(clock.seconds["train"], _training_seconds(run))
    result = _result(folder, cell, run, found, parity, clock.seconds)
    folder.finish(result)
    if not cell.keep_models:
        for name in ("run", "bundle"):
            shutil.rmtree(folder.path / name)
    return result


def _calibrated(run: Run, device: str) -> Calibration:
    try:
        return load_calibration(run)
    except CalibrationError:
        return calibrate(run, device=device)


def _test_images(run: Run) -> tuple[Dataset, tuple[Sample, ...]]:
    """The data set, and those of its test images that the check before training let pass."""
    record = run.record.data
    dataset = open_dataset(Path(record.root), run.config.data)
    kept = {name for name, _ in record.roles["test"]}
    return dataset, tuple(s for s in dataset.test if dataset.relative(s.path) in kept)


def _verified(run: Run, bundle: Bundle, samples: tuple[Sample, ...], threads: int) -> VerifyReport:
    images = [s.path for s in samples][:: max(1, len(samples) // VERIFIED)]
    report = verify(bundle, data=images, reference=run_reference(run, bundle), threads=threads)
    if not report.passed:
        raise ParityError(report.text())
    return report


def _result(
    folder: CellFolder,
    cell: Cell,
    run: Run,
    found: Evaluation,
    parity: VerifyReport,
    seconds: dict[str, float],
) -> Result:
    model = run.model()
    extractor = sum(p.numel() for p in model.extractor.parameters())
    everything = sum(p.numel() for p in model.parameters())
    estimates = {
        "image": found.auroc,
        "pixel": found.pixel_auroc,
        "aupro": found.aupro,
        "image_ap": found.average_precision,
    }
    metrics = {name: None if e is None else e.value for name, e in estimates.items()}
    roles = {role: len(images) for role, images in run.record.data.roles.items()}
    on_gpu = run.record.compute.device == "cuda"
    return Result(
        created=now(),
        versions=versions(),
        host=platform.node(),
        fingerprint=run.record.data.fingerprint,
        images={**roles, GOOD: found.good, "defective": found.defective},
        metrics={**metrics, "aupro_cflow": found.aupro_cflow},
        parity={
            "flips": float(sum(len(c.flips_outside) for c in parity.comparisons)),
            "score": max((c.score_relative.max for c in parity.comparisons), default=None),
            "map": max(
                (c.map_absolute.max for c in parity.comparisons if c.map_absolute), default=None
            ),
        },
        seconds={name: round(value, 1) for name, value in seconds.items()},
        parameters={"trained": everything - extractor, "all": everything},
        peak_memory=_peak_memory(),
        peak_gpu_memory=torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        attempts=folder.attempts,
    )


def _training_seconds(run: Run) -> float:
    """Of all epochs, whichever process trained them."""
    with (run.path / METRICS).open(encoding="utf-8", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def _peak_memory() -> float | None:
    """MiB that this process held at most."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class _Clock:
    """The seconds of each step."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._say = say

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._say(f"{now()} {name}")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


class _Epochs:
    """One line per finished epoch."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(self, status: Status) -> None:
        if status.phase == "train" and status.done * status.epochs == status.total * status.epoch:
            self._say(f"epoch {status.epoch}/{status.epochs}, loss {status.loss:.4f}")
