"""Commands of a study: public data sets, and tables that compare methods on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from . import show
from .app import app

PANEL = "Studies"


@app.command(rich_help_panel=PANEL)
def unpack(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100 or stc.", show_default=False)],
    source: Annotated[
        Path, typer.Argument(help="The folder of the unpacked download.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the pictures.")],
) -> None:
    """Make pictures of a public data set that comes as something else."""
    from ..data.protocols import UNPACK

    if name not in UNPACK:
        raise InputError(
            f"{name!r}: expected one of {', '.join(UNPACK)}; other data sets are read as they are"
        )
    with show.counting(f"unpacking {name}") as progress:
        UNPACK[name](source, out, progress)
    show.say(f"wrote {out}")


@app.command(rich_help_panel=PANEL)
def sweep(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="The TOML file of the sweep.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The sweep's folder; default: CONFIG without its suffix."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cells at a time, here.")] = 1,
    engine: Annotated[
        str, typer.Option("--engine", help="local, or ray: on every machine of a cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Of the Ray cluster; default: Ray on this machine."),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Show the cells and what is done; start nothing.")
    ] = False,
) -> None:
    """Train, export, verify and evaluate every cell of a study, and make its leaderboard.

    Methods x data x presets x seeds. A sweep that was stopped or killed goes on with the same
    command; finished cells are not run again.
    """
    from ..sweep.config import read_sweep
    from ..sweep.engines import local_engine, ray_engine
    from ..sweep.leaderboard import STEM
    from ..sweep.sweep import Told, overview, run_sweep

    if engine not in ("local", "ray"):
        raise InputError(f"--engine {engine!r}: expected local or ray")
    if address is not None and engine != "ray":
        raise InputError("--address is of a Ray cluster; give --engine ray with it")
    chosen = read_sweep(config)
    folder = out or config.with_suffix("")
    if plan_only:
        rows = overview(chosen, folder)
        show.table(f"{config}: {len(rows)} cells", ("cell", "state"), rows, left=2)
        return

    def tell(told: Told) -> None:
        state = told.outcome.error or "done"
        show.note(f"[{told.done}/{told.total}] {told.cell.name}: {state}")

    runner = local_engine(jobs) if engine == "local" else ray_engine(address)
    with show.counting("checking images") as progress:
        finished = run_sweep(chosen, folder, runner, report=tell, checking=progress)
    show.say(f"{folder / f'{STEM}.html'}: {len(finished)} cells")
