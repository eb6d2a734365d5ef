"""The command of the line itself: run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import schema
from ..errors import SanflowError
from . import show
from .app import app
from .line import PANEL, UNDECIDED
from .options import (
    BundleArgument,
    CudaOption,
    EngineOption,
    FallbackOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    gpu_options,
)


@app.command(rich_help_panel=PANEL)
def run(
    bundle: BundleArgument,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Where frames come from: sim:, folder:, rtsp://, pylon:, …"),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", help="From a part's trigger to its verdict, e.g. 50ms."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="line.toml: source, outputs, archive, monitor.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the station: its journal, its archive.")
    ] = Path("station"),
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    cuda_backend: CudaOption = "auto",
    allow_fallback: FallbackOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge every part on a line: exactly one verdict each, in order, by its deadline.

    Late, broken or unseen parts are NG with a reason. SIGTERM or Ctrl-C stops it after the last
    open part; SIGHUP opens the bundle anew, proves it and swaps. Exit code 3 says that a source
    was read to its end, and at least one part could not be judged; 9, that an output cannot be
    used, or the disk did not take every result.
    """
    from ..runtime.line.command import run_station, stuck
    from ..runtime.line.output import OutputError

    try:
        tally = run_station(
            bundle,
            source=source,
            deadline=deadline,
            config=config,
            out=out,
            engine=engine,
            threads=threads,
            precision=precision,
            gpu=gpu_options(cuda_backend, allow_fallback),
            told=show.station,
        )
    except SanflowError as error:
        if stuck():
            show.note(f"error: {error}")
            show.leave(error.exit_code)
        raise
    if as_json:
        show.json_document(schema.dump(tally))
    else:
        reasons = ", ".join(f"{count} {name}" for name, count in tally.reasons.items())
        show.say(f"{tally.parts} parts: {tally.ok} OK, {tally.ng} NG{reasons and f' ({reasons})'}")
    code = UNDECIDED if tally.unjudged and not tally.stopped else 0
    if tally.unwritten:
        why = f"{out / 'journal'}{tally.trouble and f': {tally.trouble}'}"
        show.note(f"error: {tally.unwritten} results were never written to {why}")
        code = OutputError.exit_code
    if stuck():
        show.leave(code)
    raise typer.Exit(code)
