"""Commands of the line PC, none of which needs PyTorch: build, infer, bench, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import schema
from ..errors import InputError
from . import show
from .app import app
from .options import (
    BundleArgument,
    CudaOption,
    EngineOption,
    EveryEngineOption,
    EveryPrecisionOption,
    FallbackOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    gpu_options,
)

UNDECIDED = 3
"""Exit code of a finished `infer` with at least one image that got no decision."""

PANEL = "On the line"


@app.command(rich_help_panel=PANEL)
def build(
    bundle: BundleArgument,
    engine: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option("--engine", help="Whose plan; default: the first that is installed here."),
    ] = None,
    precision: PrecisionOption = None,
    cuda_backend: CudaOption = "auto",
    allow_fallback: FallbackOption = False,
    workspace: Annotated[
        int | None,
        typer.Option(
            "--workspace",
            metavar="MIB",
            min=16,
            help="GPU memory to try kernels in; default: half of what is free, 1024 on a Jetson.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build it anew.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build and prove the TensorRT plan of a bundle on this device, before the first part comes.

    The first `sanflow infer` does the same. A plan is valid for this GPU, driver and TensorRT, and
    is found again until one of them changes.
    """
    from ..runtime.trt.make import build_bundle

    with show.building() as progress:
        report = build_bundle(
            bundle,
            engine=engine,
            precision=precision,
            gpu=gpu_options(cuda_backend, allow_fallback),
            workspace=workspace,
            force=force,
            progress=progress,
        )
    if as_json:
        show.json_document(schema.dump(report))
    else:
        show.table(f"{bundle}: plan for this device", ("what", "value"), report.rows(), left=2)


@app.command(rich_help_panel=PANEL)
def infer(
    bundle: BundleArgument,
    source: Annotated[str, typer.Option("--source", help="A folder, a glob, or one image.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for results and heat maps.")],
    overlays: Annotated[
        Literal["none", "ng", "all"], typer.Option("--overlays", help="Which heat maps to write.")
    ] = "none",
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    cuda_backend: CudaOption = "auto",
    allow_fallback: FallbackOption = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Stop after this many images.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace earlier results.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge images: one line each in results.jsonl and results.csv.

    Exit code 3 says that it finished, and at least one image got no decision.
    """
    from ..runtime.infer import infer as judge

    with show.judging() as progress:
        summary = judge(
            bundle,
            source,
            out,
            overlays=overlays,
            engine=engine,
            threads=threads,
            precision=precision,
            gpu=gpu_options(cuda_backend, allow_fallback),
            limit=limit,
            force=force,
            progress=progress,
        )
    if as_json:
        show.json_document(schema.dump(summary))
    else:
        show.say(
            f"{summary.images} images, {summary.images_per_second:.1f} per second: "
            f"{summary.ok} OK, {summary.ng} NG, {summary.no_decision} NO-DECISION "
            f"({summary.uncertain} uncertain); {out}"
        )
    if summary.no_decision:
        reasons = ", ".join(f"{count} {name}" for name, count in summary.reasons.items())
        show.note(f"no decision on {summary.no_decision} images ({reasons}): see {out}")
        raise typer.Exit(UNDECIDED)


@app.command(rich_help_panel=PANEL)
def bench(
    bundle: BundleArgument,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    runs: Annotated[
        int, typer.Option("--runs", min=1, help="Runs at most; p99.9 needs 1000.")
    ] = 1000,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, help="Time at most, without the cold starts.")
    ] = 60.0,
    cold_starts: Annotated[
        int, typer.Option("--cold-starts", min=1, help="Fresh processes to start.")
    ] = 3,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Find this machine's fastest engine and setting, and use it from now on."
        ),
    ] = False,
    goal: Annotated[
        Literal["latency", "throughput"] | None,
        typer.Option("--goal", help="What --tune looks for: latency (the default) or throughput."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, throughput, cold start and memory of a bundle on this machine."""
    if tune:
        if threads is not None:
            raise InputError(
                f"--threads {threads}: --tune chooses the threads itself; leave it out"
            )
        if precision is not None:
            raise InputError(
                f"--precision {precision}: --tune is for the graph that the bundle prefers; leave "
                "it out"
            )
        _tune(bundle, goal or "latency", engine, seconds, as_json)
        return
    if goal is not None:
        raise InputError(f"--goal {goal} was given alone; it says what --tune looks for")
    from ..runtime.bench import bench as measure

    with show.counting("measuring") as progress:
        report = measure(
            bundle,
            engine=engine,
            threads=threads,
            precision=precision,
            runs=runs,
            seconds=seconds,
            cold_starts=cold_starts,
            progress=progress,
        )
    if as_json:
        show.json_document(schema.dump(report))
    else:
        show.table(f"{bundle}: speed on this machine", ("figure", "value"), report.rows(), left=2)


def _tune(
    bundle: Path,
    goal: Literal["latency", "throughput"],
    engine: str | None,
    seconds: float,
    as_json: bool,
) -> None:
    from ..runtime.tune import tune as search

    with show.counting("tuning") as progress:
        report = search(bundle, goal=goal, engine=engine, seconds=seconds, progress=progress)
    if as_json:
        show.json_document(schema.dump(report))
    else:
        show.table(f"{bundle}: settings on this machine", report.columns(), report.rows(), left=2)
        show.say(report.text())


@app.command(rich_help_panel=PANEL)
def doctor(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE", help="Also load this bundle, replay its goldens, and time it."
        ),
    ] = None,
    engine: EveryEngineOption = None,
    precision: EveryPrecisionOption = None,
    threads: ThreadsOption = None,
    cuda_backend: CudaOption = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write it all as JSON, for a bug report.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can run, what it cannot, and what would change that."""
    from ..runtime.doctor import Asked
    from ..runtime.doctor import doctor as examine

    if out is not None:  # said before minutes of work
        if out.is_dir():
            raise InputError(f"{out}: is a folder, expected the name of a file")
        out.parent.mkdir(parents=True, exist_ok=True)
    gpu = gpu_options(cuda_backend, allow_fallback=False)
    report = examine(bundle, asked=Asked(engine, precision, threads, gpu))
    if out is not None:
        out.write_text(json.dumps(report.to_json(), indent=2) + "\n", "utf-8")
    if as_json:
        show.json_document(report.to_json())
    else:
        show.table(
            f"sanflow {report.sanflow} on this machine",
            ("what", "name", "status", "detail"),
            report.rows(),
            left=4,
        )
    if report.exit_code:
        raise typer.Exit(report.exit_code)
