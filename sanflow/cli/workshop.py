"""Commands of the training PC: check, synth, train, calibrate, evaluate, demo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import schema
from ..errors import DataError
from . import show
from .app import app
from .options import (
    CategoryOption,
    ConfigOption,
    DataArgument,
    DeviceOption,
    EngineOption,
    FalseAlarmOption,
    JsonOption,
    LayoutOption,
    MethodOption,
    MovedDataOption,
    PrecisionOption,
    PresetOption,
    RoiOption,
    RunArgument,
    RunOrBundleArgument,
    SeedOption,
    SetOption,
    SizeOption,
    SkipBadOption,
    TexturesOption,
    ThreadsOption,
    false_alarm_rate,
    finished_run,
    run_config,
)

PANEL = "On the training PC"


@app.command(rich_help_panel=PANEL)
def check(
    data: DataArgument,
    layout: LayoutOption = None,
    category: CategoryOption = None,
    size: SizeOption = None,
    roi: RoiOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at every image of a data set and name each that cannot be used."""
    from ..data.check import check_dataset
    from ..data.layout import open_dataset

    config = run_config(size=size, roi=roi, data__layout=layout, data__category=category)
    dataset = open_dataset(data, config.data)
    model = config.model.height, config.model.width
    with show.counting("checking images") as progress:
        report = check_dataset(dataset, config.data, progress, size=model)
    if as_json:
        show.json_document(
            {
                "fingerprint": report.fingerprint,
                "images": {role: len(samples) for role, samples in dataset.roles().items()},
                "findings": [
                    {"path": dataset.relative(f.path), "problem": f.problem, "detail": f.detail}
                    for f in report.findings
                ],
            }
        )
    else:
        show.say(report.text())
    if report.findings:
        count = f"{len(report.findings)} finding{'s' if len(report.findings) > 1 else ''}"
        raise DataError(f"{count} in {data}; mend them, or train with --skip-bad")


@app.command(rich_help_panel=PANEL)
def synth(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", help="The PNG file to write.")],
    rows: Annotated[int, typer.Option("--rows", min=1, max=64, help="Good parts to show.")] = 4,
    method: MethodOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    textures: TexturesOption = None,
    size: SizeOption = None,
    roi: RoiOption = None,
    layout: LayoutOption = None,
    category: CategoryOption = None,
    seed: SeedOption = None,
) -> None:
    """Draw good parts beside the synthetic anomalies that training will make of them."""
    from ..data.contact_sheet import contact_sheet
    from ..data.layout import open_dataset

    chosen = run_config(
        preset,
        config,
        sets,
        method=method,
        size=size,
        roi=roi,
        data__layout=layout,
        data__category=category,
        optim__seed=seed,
        hybrid__textures__folder=_folder(textures),
    )
    dataset = open_dataset(data, chosen.data)
    contact_sheet(
        dataset,
        chosen.data,
        chosen.hybrid.textures if chosen.model.classifies else chosen.synth,
        chosen.model.height,
        chosen.model.width,
        chosen.optim.seed,
        out,
        rows,
    )
    show.say(f"wrote {out}")


@app.command(rich_help_panel=PANEL)
def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", help="The run's folder, new or empty.")],
    method: MethodOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="imagenet (a download), none, or a file of weights."),
    ] = None,
    extractor: Annotated[
        str | None, typer.Option("--extractor", help="resnet18, wide_resnet50_2, ...")
    ] = None,
    size: SizeOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the images.")] = None,
    textures: TexturesOption = None,
    seed: SeedOption = None,
    roi: RoiOption = None,
    layout: LayoutOption = None,
    category: CategoryOption = None,
    device: DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue after the last finished epoch of --out.")
    ] = False,
    skip_bad: SkipBadOption = False,
) -> None:
    """Train on good parts, and calibrate the run on good parts that were held out.

    Ctrl-C and a power cut lose at most the epoch in progress; --resume continues.
    """
    from ..calibration.calibrate import calibrate as calibrate_run
    from ..run import RECORD, open_run
    from ..training.folder import require_begun
    from ..training.train import train as train_run

    flags: dict[str, Any] = {
        "method": method,
        "hybrid__textures__folder": _folder(textures),
        "size": size,
        "roi": roi,
        "weights": weights,
        "model__extractor": extractor,
        "optim__epochs": epochs,
        "optim__seed": seed,
        "data__layout": layout,
        "data__category": category,
    }
    # A run knows its configuration: resumed, only what is given could be another.
    own = open_run(out).config if resume and (out / RECORD).exists() else None
    if resume and own is None:
        require_begun(out)
        show.note(
            f"{out}: training was stopped there before it could be continued; it begins anew, with "
            "what this command says"
        )
    chosen = run_config(preset or own, config, sets, **flags)
    with show.training() as progress:
        run = train_run(
            data,
            out,
            chosen,
            resume=resume,
            skip_bad=skip_bad,
            device=device,
            progress=progress,
        )
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes, one is enough
        with show.counting("calibrating") as counted:
            calibrated = calibrate_run(run, data, progress=counted)
        done = run.record.progress.epochs_done
        show.say(
            f"{out}: {done} epoch{'s' if done != 1 else ''} trained, "
            f"calibrated with {calibrated.held()}"
        )


@app.command(rich_help_panel=PANEL)
def calibrate(
    run: RunArgument,
    data: MovedDataOption = None,
    rate: FalseAlarmOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Fix a run's score constants and score its held-out good parts (train does it, too)."""
    from ..calibration.calibrate import calibrate as calibrate_run

    opened = finished_run(run)
    with show.counting("calibrating") as progress:
        calibration = calibrate_run(opened, data, device=device, progress=progress)
    threshold = calibration.threshold(false_alarm_rate(rate, calibration))
    if as_json:
        show.json_document(
            {"scores": list(calibration.part_scores), "threshold": schema.dump(threshold)}
        )
    else:
        show.say(threshold.text())
        if rate is not None:
            show.note("the rate is not kept: give it to export, or to threshold, too")


@app.command(rich_help_panel=PANEL)
def evaluate(
    subject: RunOrBundleArgument,
    data: DataArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.html and evaluation.json.")
    ] = None,
    rate: FalseAlarmOption = None,
    layout: LayoutOption = None,
    category: CategoryOption = None,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = "cpu",
    resamples: Annotated[
        int, typer.Option("--resamples", min=10, help="Bootstrap resamples of the intervals.")
    ] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Measure a run (by PyTorch) or a bundle (by its engine) on the test images of DATA."""
    from ..evaluation.evaluate import evaluate as measure
    from ..evaluation.report import require_folder, write_report
    from .subjects import open_subject

    if out is not None:
        require_folder(out)
    with open_subject(
        subject,
        data,
        layout=layout,
        category=category,
        rate=rate,
        engine=engine,
        threads=threads,
        precision=precision,
        device=device,
    ) as opened:
        with show.counting("scoring test images") as progress:
            found = measure(
                opened.samples,
                opened.scorer,
                opened.pixel_path,
                decision=opened.decision,
                localises=opened.localises,
                subject=opened.description,
                root=opened.root,
                seen=opened.seen,
                resamples=resamples,
                progress=progress,
            )
        if out is not None:
            write_report(found, opened.samples, opened.scorer, opened.pixel_path, out)
    if as_json:
        show.json_document(schema.dump(found))
        return
    metrics = {
        "image AUROC": found.auroc,
        "image average precision": found.average_precision,
        "pixel AUROC": found.pixel_auroc,
        "AUPRO@0.3": found.aupro,
    }
    if found.at_threshold is not None:
        metrics["F1 at the threshold"] = found.at_threshold.f1
        metrics["false alarms"] = found.at_threshold.false_alarms
        metrics["defects found"] = found.at_threshold.recall
    show.table(
        f"{subject}: {found.good} good and {found.defective} defective test images",
        ("metric", "value", "95 % interval"),
        [
            (name, e.value, f"{e.low:.4g} to {e.high:.4g}") if e else (name, None, None)
            for name, e in metrics.items()
        ],
    )
    if found.without_mask:
        show.note(
            f"{found.without_mask} of {found.defective} defective images have no usable mask; the "
            "pixel metrics leave them out"
        )
    if out is not None:
        show.say(f"wrote {out / 'report.html'}")


@app.command(rich_help_panel=PANEL)
def demo(
    out: Annotated[Path, typer.Option("--out", help="New folder for everything it makes.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Another seed makes other parts.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="The path alone, on few tiny parts: no good figures.")
    ] = False,
) -> None:
    """Make parts, train, calibrate, export, verify and judge them; leave a report to look at."""
    from ..demo import FULL, QUICK, run_demo

    run_demo(out, show, seed=seed, size=QUICK if quick else FULL)


def _folder(path: Path | None) -> str | None:
    """As a run keeps it: it may be continued from another working folder."""
    return None if path is None else str(path.resolve())
