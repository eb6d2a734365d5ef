"""Commands between the training PC and the line: export, threshold, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import schema
from ..errors import InputError, ParityError
from . import show
from .app import app
from .options import (
    BundleArgument,
    EveryEngineOption,
    EveryPrecisionOption,
    FalseAlarmOption,
    JsonOption,
    MovedDataOption,
    PrecisionOption,
    RunArgument,
    ThreadsOption,
    false_alarm_rate,
    finished_run,
)

if TYPE_CHECKING:
    from ..bundle import Bundle, Decision, Graph
    from ..calibration.threshold import Threshold
    from ..export.export import Prepared


@app.command(rich_help_panel="To the line")
def export(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The bundle's folder; none is written with --explain alone."),
    ] = None,
    target: Annotated[str, typer.Option("--target", help="onnx, openvino or tensorrt.")] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="fp32, fp16, bf16, int8, or auto: the fastest that passes the gate. Default: "
            "fp32; fp16 for tensorrt, whose bundle always holds fp32 as well.",
        ),
    ] = None,
    activation: Annotated[
        Literal["int8", "uint8"] | None,
        typer.Option(
            "--activation",
            help="Form of int8 activations: int8 suits TensorRT, too (default for onnx), uint8 is "
            "faster on CPUs (default for openvino).",
        ),
    ] = None,
    flows: Annotated[
        bool, typer.Option("--flows", help="tensorrt: lower the flows' products, too.")
    ] = False,
    defects: Annotated[
        Path | None,
        typer.Option("--defects", help="Labelled defects for the gate; never the test images."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what the passes saved, and each region.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per inference.")] = 1,
    layout: Annotated[
        Literal["bundle", "triton"],
        typer.Option(
            "--layout",
            help="triton: --out is a model's folder in a Triton server's repository, MODELS/NAME.",
        ),
    ] = "bundle",
    rate: FalseAlarmOption = None,
    data: MovedDataOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Turn a run into a bundle, if its engine gives PyTorch's verdicts.

    A precision below fp32 has to pass the gate: on held-out good parts, synthetic anomalies and
    the labelled defects you give, no verdict may flip outside the uncertain band. Ctrl-C leaves
    what is at --out as it was.
    """
    from ..calibration.calibrate import load_calibration
    from ..export.export import export_run, prepare
    from ..export.triton import export_model
    from ..training.interrupt import interruptible

    if out is None and not explain:
        raise InputError("--out was not given: say where to write, or --explain to write nothing")
    opened = finished_run(run)
    asked = false_alarm_rate(rate, load_calibration(opened))
    message = "export stopped" + (f"; {out} is as it was" if out else "")
    with interruptible(lambda: message), show.counting_with_lines("exporting") as (progress, line):
        options: dict[str, Any] = {
            "precision": precision,
            "activation": activation,
            "flows": flows,
            "batch": batch,
            "false_alarm_rate": asked,
            "data": data,
            "defects": defects,
            "tell": line,
            "progress": progress,
        }
        if out is None:
            _explain(prepare(opened, target, **options))
            return

        def write(folder: Path) -> Bundle:
            tables = _explain if explain else None
            return export_run(opened, folder, target, force=force, explain=tables, **options)

        served = layout == "triton"
        bundle = export_model(out, target, write, force=force) if served else write(out)
    manifest = bundle.manifest
    show.say(
        f"{out}: {target}, {', '.join(g.precision for g in manifest.graphs)}, batch {batch}, NG "
        f"above {manifest.graph().decision.threshold:.6g}, parity passed"
    )


def _explain(prepared: Prepared) -> None:
    """The tables of the report that are known before anything is written."""
    from ..export.explain import graph_tables, passes_table

    outcomes = [made.outcome for made in prepared.made]
    for table in [passes_table(prepared.passes), *graph_tables(outcomes, prepared.contract)]:
        show.table(table.title, table.columns, table.rows, table.left)
    if prepared.warning is not None:
        show.note(prepared.warning)


@app.command(rich_help_panel="To the line")
def threshold(
    bundle: BundleArgument,
    rate: Annotated[
        float | None,
        typer.Option("--false-alarm-rate", help="New bound on the share of good parts rejected."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", help="Keep the bound for these very parts, this surely."),
    ] = None,
    value: Annotated[
        float | None, typer.Option("--value", help="New threshold, set by hand.")
    ] = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a bundle's threshold and what it guarantees, or change it without a new export.

    A change is made to every graph of the bundle, by its own scores; --precision says which one is
    shown.
    """
    from ..bundle import Bundle, with_decisions
    from ..calibration.threshold import conformal_threshold, threshold_at

    if rate is not None and value is not None:
        raise InputError("--false-alarm-rate and --value were given; choose one of them")
    if confidence is not None and rate is None:
        raise InputError("--confidence was given alone; it belongs to --false-alarm-rate")
    opened = Bundle.open(bundle)
    shown = opened.manifest.graph(precision)

    def choose(graph: Graph) -> Threshold:
        tolerance = graph.tolerances.band_relative
        if rate is None:
            at = graph.decision.threshold if value is None else value
            return threshold_at(graph.part_scores, at, score_relative=tolerance)
        found = conformal_threshold(
            graph.part_scores, rate, confidence=confidence, score_relative=tolerance
        )
        return replace(found, value=found.above())

    if rate is not None or value is not None:
        opened = with_decisions(
            opened, [_decided(g.decision, choose(g), rate) for g in opened.manifest.graphs]
        )
        if (served := opened.path.parent / "config.pbtxt").is_file():
            show.note(f"{served} still has the old threshold and digest: export again to change it")
    decision = opened.manifest.graph(precision).decision
    low, high, asked = decision.band_low, decision.band_high, decision.false_alarm_rate
    chosen = replace(choose(shown), band_low=low, band_high=high)  # the band that is in force
    if as_json:
        show.json_document(schema.dump(chosen))
    else:
        show.say(chosen.text(by_hand=asked is None))
        if rate is None and asked is not None:
            show.say(f"It was chosen for at most {100 * asked:.3g} % of good parts.")
        if asked is None:
            _warn_of(decision.threshold, shown.scores)
        show.say(f"Uncertain from {low:.6g} to {high:.6g}.")


def _warn_of(value: float, scores: Sequence[float]) -> None:
    """A threshold by hand that no calibration part's score is near decides every part alike."""
    if value > scores[-1]:
        show.note(
            f"the threshold {value:g} is above the score of every calibration part (at most "
            f"{scores[-1]:.6g}): a defect that scores less is OK"
        )
    elif value < scores[0]:
        show.note(
            f"the threshold {value:g} is below the score of every calibration part (at least "
            f"{scores[0]:.6g}): good parts are NG"
        )


def _decided(decision: Decision, chosen: Threshold, rate: float | None) -> Decision:
    return replace(
        decision,
        threshold=chosen.value,
        false_alarm_rate=rate,
        band_low=chosen.band_low,
        band_high=chosen.band_high,
    )


@app.command(rich_help_panel="To the line")
def verify(
    bundle: BundleArgument,
    data: Annotated[
        str | None, typer.Option("--data", help="Your own images too: folder, glob or file.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="The run it was exported from: PyTorch judges your images."),
    ] = None,
    engine: EveryEngineOption = None,
    threads: ThreadsOption = None,
    precision: EveryPrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that this machine's engines give PyTorch's verdicts; exit code 6 if one does not.

    Without --run, your images are compared with the scores that the bundle stores, which are
    those of the images it was calibrated with.
    """
    from ..bundle import Bundle
    from ..runtime.parity import verify as compare
    from ..runtime.sources import find

    if run is not None and data is None:
        raise InputError(
            f"--run {run} was given without --data: PyTorch judges your images, and the golden "
            "samples hold its word already; give images, or leave it out"
        )
    opened = Bundle.open(bundle)
    reference = None
    if run is not None:
        from ..export.reference import run_reference
        from ..run import open_run

        reference = run_reference(open_run(run), opened)
    source = None if data is None else find(data)
    images = [] if source is None else [source.root / path for path in source]
    with show.counting("comparing") as progress:
        report = compare(
            opened,
            engine,
            images,
            reference,
            threads=threads,
            precision=precision,
            progress=progress,
        )
    if as_json:
        show.json_document(report.to_json())
    else:
        # One comparison per column: there are few of them, and many figures.
        engine_of, precision_of, compared_of, *figures = report.columns()
        rows = report.rows()
        heads = (
            f"{engine_of}\n{precision_of}, {compared_of}",
            *(f"{row[0]}\n{row[1]}, {row[2]}" for row in rows),
        )
        show.table(
            f"{bundle}: parity with PyTorch",
            heads,
            [(name, *(row[at] for row in rows)) for at, name in enumerate(figures, start=3)],
        )
        show.some("skipped ", report.skipped, "`sanflow verify --json` has all")
    if not report.passed:
        raise ParityError(report.text())
    if not as_json:
        show.say(report.text())
