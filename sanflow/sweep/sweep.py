"""A whole sweep: plan it, look at its data, run what is not done yet, write the leaderboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, SanflowError
from ..training.interrupt import interruptible
from .config import Sweep
from .engines import Engine, Task
from .folder import CellFolder
from .leaderboard import write_leaderboard
from .lock import locked
from .plan import Cell, Progress, check_data, plan, require_same_images
from .process import Outcome
from .table import Finished

CELLS, LOCK = "cells", "sweep.lock"


@dataclass(frozen=True)
class Told:
    """One cell has ended."""

    done: int
    """Cells of the sweep that have a result, those of earlier times too."""
    total: int
    cell: Cell
    outcome: Outcome


def run_sweep(
    sweep: Sweep,
    out: Path,
    engine: Engine,
    *,
    report: Callable[[Told], None] = lambda told: None,
    checking: Progress | None = None,
) -> tuple[Finished, ...]:
    """Run the cells that have no result yet, and write OUT/leaderboard.{md,csv,html}, cells.csv.

    Nothing is written before every data set has been read and found good, and the same that cells
    with a result were trained on. Ctrl-C, SIGTERM and a
    killed machine lose at most the epoch in progress of each running cell; the same call goes on.
    Raises SanflowError naming the cells that failed, after all others have run.
    """
    cells = plan(sweep)
    folders = {cell.name: CellFolder(out / CELLS / cell.name) for cell in cells}
    _require_usable(out)
    left = [cell for cell in cells if folders[cell.name].result is None]
    images = check_data(left, checking)
    told = [(cell, images[cell.name]) for cell in left if cell.name in images]
    require_same_images([*_trained_on(collect(cells, out)), *told])
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, f"{out}: another sweep is working here; wait for it, or end it"):
        for cell in cells:
            folders[cell.name].prepare(cell)
        try:
            failed = _run(cells, folders, engine, report, out)
        finally:
            # A sweep that is stopped leaves a board of what is done, too.
            finished = collect(cells, out)
            require_same_images(_trained_on(finished))  # the data may have changed meanwhile
            write_leaderboard(finished, cells, out)
    if failed:
        listed = "".join(f"\n  {name}: {error}" for name, error in sorted(failed.items()))
        raise SanflowError(
            f"{len(failed)} of {len(cells)} cells failed:{listed}\n"
            "the same command tries them again; all others are done"
        )
    return finished


def overview(sweep: Sweep, out: Path) -> list[tuple[str, str]]:
    """Every cell's name, and whether it is refused, done, failed, begun or open.

    InputError where `out` cannot be used, as for the sweep itself.
    """
    _require_usable(out)
    rows = []
    for cell in plan(sweep):
        folder = CellFolder(out / CELLS / cell.name)
        if differing := folder.differing(cell):
            state = f"refused: {differing}"
        elif folder.result is not None:
            state = "done"
        elif folder.failure is not None:
            state = f"failed: {folder.failure.error}"
        else:
            state = "begun" if folder.attempts else "open"
        rows.append((cell.name, state))
    return rows


def collect(cells: tuple[Cell, ...], out: Path) -> tuple[Finished, ...]:
    """The cells that are done, with their figures."""
    found = ((cell, CellFolder(out / CELLS / cell.name).result) for cell in cells)
    return tuple(Finished(cell, result) for cell, result in found if result is not None)


def _trained_on(finished: tuple[Finished, ...]) -> list[tuple[Cell, str]]:
    """The cells with their data's fingerprints, those that were done last at the end."""
    ordered = sorted(finished, key=lambda found: found.result.created)
    return [(found.cell, found.result.fingerprint) for found in ordered]


def _run(
    cells: tuple[Cell, ...],
    folders: dict[str, CellFolder],
    engine: Engine,
    report: Callable[[Told], None],
    out: Path,
) -> dict[str, str]:
    """Run what is left; the errors of the cells that failed, by name."""
    left = {
        str(folder.path.resolve()): cell
        for cell in cells
        if (folder := folders[cell.name]).result is None
    }
    done = len(cells) - len(left)
    failed: dict[str, str] = {}
    tasks = [Task(path, cell.threads, cell.gpus) for path, cell in left.items()]
    message = f"sweep stopped; what is finished is kept in {out}, the same command goes on"
    with interruptible(lambda: message):
        outcomes = engine(tasks)
        try:
            for outcome in outcomes:
                cell = left[outcome.folder]
                if outcome.error is None:
                    done += 1
                else:
                    failed[cell.name] = outcome.error
                report(Told(done, len(cells), cell, outcome))
        finally:
            outcomes.close()
    return failed


def _require_usable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / LOCK).exists():
        raise InputError(f"{out}: holds files but no sweep; give a new folder with --out")
