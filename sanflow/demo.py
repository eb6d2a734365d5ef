"""The whole path on parts it makes itself: photographs, training, bundles, verdicts, a report.

No weights are downloaded: the extractor is taught on the good parts (training/pretext.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle, Decision
from .calibration.calibrate import calibrate
from .config import OptimConfig, PretextConfig, RunConfig
from .data.config import DataConfig, SynthConfig
from .data.demo_parts import make_demo_parts
from .data.layout import GOOD, Dataset, open_dataset
from .errors import InputError, ParityError
from .evaluation.evaluate import evaluate
from .evaluation.report import write_report
from .evaluation.result import Evaluation
from .evaluation.subject import bundle_subject
from .export.export import export_run
from .imaging import overlay, read
from .model.config import SanflowConfig
from .run import Run
from .runtime import Detector
from .runtime.infer import infer
from .runtime.parity import verify
from .runtime.records import Record
from .training.log import Status
from .training.presets import load_config
from .training.train import train

FALSE_ALARMS = 0.02
PICTURE = "demo.png"


class Show(Protocol):
    """How the demo tells what it does; the command line's own way of showing progress."""

    def say(self, text: str) -> None: ...

    def counting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]: ...

    def training(self) -> AbstractContextManager[Callable[[Status], None]]: ...

    def judging(self) -> AbstractContextManager[Callable[[Record], None]]: ...


@dataclass(frozen=True)
class Size:
    """How much the demo does."""

    train: int
    good: int
    per_defect: int
    config: RunConfig


MODEL = SanflowConfig(
    extractor="resnet18",
    taps=(4, 8),
    feature_scale="position",  # the parts lie the same way in every photograph
    fusion="log_likelihood",
    height=192,
    width=192,
    position_dim=32,
    head_width=8,
)
FULL = Size(
    train=240,
    good=40,
    per_defect=12,
    config=RunConfig(
        model=MODEL,
        data=DataConfig(calibrate_fraction=0.25),
        # Small rectangles as thin and long as scratches: what the extractor has to learn to see.
        synth=SynthConfig(quotas=(5, 1, 1, 1), small_height=(2, 6), small_width=(20, 120)),
        optim=OptimConfig(
            epochs=14,
            sub_epochs=1,
            learning_rate=1e-3,
            warmup_meta_epochs=1,
            positions=0.25,
            feature_noise=0.1,
        ),
        pretext=PretextConfig(steps=400, batch=8),
        weights="none",
    ),
)
QUICK = Size(
    train=80,
    good=6,
    per_defect=2,
    config=replace(
        FULL.config,
        model=replace(MODEL, height=64, width=64, position_dim=8, blocks=2),
        data=DataConfig(calibrate_fraction=0.7),
        optim=replace(FULL.config.optim, epochs=2),
        pretext=PretextConfig(steps=4, batch=4),
    ),
)


def run_demo(out: Path, show: Show, *, seed: int = 0, size: Size = FULL) -> Evaluation:
    """Leave parts, a run, two bundles, verdicts, a report and a picture in `out`.

    Raises InputError if `out` already holds files, ConfigError for a negative seed.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty; give another folder with --out, or remove it")
    config = load_config(size.config, None, {"optim.seed": seed})
    parts = out / "parts"
    with show.counting("photographing parts") as counted:
        make_demo_parts(parts, seed, size.train, size.good, size.per_defect, progress=counted)
    with show.training() as report:
        run = train(parts, out / "run", config, progress=report)
    with show.counting("calibrating") as counted:
        calibrate(run, progress=counted)
    for target in ("onnx", "openvino"):
        bundle = _ship(run, parts, out / target, target, show)
    with show.judging() as told:
        infer(bundle, parts / "test", out / "verdicts", overlays="all", progress=told)
    return _report(bundle, parts, out, show)


def _ship(run: Run, parts: Path, out: Path, target: str, show: Show) -> Bundle:
    with show.counting(f"exporting for {target}") as counted:
        bundle = export_run(run, out, target, false_alarm_rate=FALSE_ALARMS, progress=counted)
    images = [sample.path for sample in open_dataset(parts, run.config.data).calibrate]
    with show.counting(f"verifying {target}") as counted:
        found = verify(bundle, data=images, progress=counted)
    show.say(f"{out}: {found.text()}")
    if not found.passed:
        raise ParityError(f"{out}: {found.text()}")
    return bundle


def _report(bundle: Bundle, parts: Path, out: Path, show: Show) -> Evaluation:
    dataset = open_dataset(parts, DataConfig())
    with Detector(bundle) as detector:
        graph = detector.engine.graph

        def score(path: Path) -> tuple[float, NDArray[np.float32]]:
            result = detector.judge(path)
            if result.score is None or result.map is None:
                raise InputError(f"{path}: {result.detail}")
            return result.score, result.map

        engine = f"{detector.engine.name} {detector.engine.version}"
        with show.counting("evaluating") as counted:
            found = evaluate(
                dataset.test,
                score,
                bundle.pixel_path,
                decision=graph.decision,
                subject=bundle_subject(bundle.manifest, graph, bundle.path.name, engine),
                root=parts,
                progress=counted,
            )
        page = write_report(found, dataset.test, score, bundle.pixel_path, out / "report")
        _picture(found, dataset, score, graph.decision, out / PICTURE)
    image, pixel = found.auroc, found.pixel_auroc
    if image is not None and pixel is not None:
        show.say(f"image AUROC {image.value:.4f}, pixel AUROC {pixel.value:.4f}")
    show.say(f"look at {page} and {out / PICTURE}; every verdict is in {out / 'verdicts'}")
    return found


def _picture(
    found: Evaluation,
    dataset: Dataset,
    score: Callable[[Path], tuple[float, NDArray[np.float32]]],
    decision: Decision,
    out: Path,
) -> None:
    """One part of each kind above its heat map, with the verdict: the kind's median score."""
    from matplotlib.figure import Figure

    kinds = [GOOD, *sorted({s.label for s in dataset.test} - {GOOD})]
    figure = Figure(figsize=(2 * len(kinds), 4.5), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(kinds))
    for column, kind in enumerate(kinds):
        pairs = zip(found.images, dataset.test, strict=True)
        scored = sorted(
            ((image.score, sample) for image, sample in pairs if sample.label == kind),
            key=lambda pair: pair[0],
        )
        value, sample = scored[len(scored) // 2]
        picture, heat = read(sample.path), score(sample.path)[1]
        shown = overlay(
            picture, heat, decision.display_low, decision.display_high, decision.threshold
        )
        defect = value > decision.threshold
        for row, image in enumerate((picture, shown)):
            axes[row, column].imshow(image)
            axes[row, column].set_axis_off()
        axes[0, column].set_title(kind.replace("_", " "), fontsize=11)
        axes[1, column].set_title(
            f"{'NG' if defect else 'OK'}  {value:.4g}",
            fontsize=11,
            fontweight="bold",
            color="#b3261e" if defect else "#1b6e3c",
        )
    figure.savefig(out)
