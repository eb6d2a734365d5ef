"""Commands of the line PC, none of which needs PyTorch: infer, bench, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import schema
from . import show
from .app import app
from .options import BundleArgument, EngineOption, JsonOption, ThreadsOption

UNDECIDED = 3
"""Exit code of a finished `infer` with at least one image that got no decision."""

PANEL = "On the line"


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
