"""What a person sees while a command works and when it is done; progress goes to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from ..runtime.line.output import StationState
    from ..runtime.records import Record
    from ..training.log import Status

PHASES = {
    "check": "checking images",
    "teach": "teaching the extractor",
    "defects": "learning defects",
    "scale": "measuring features",
    "train": "training",
}


def json_document(value: object) -> None:
    """One JSON document on standard output, and nothing else."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1
) -> None:
    """A table on standard output; its first `left` columns are text, the others numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for index, name in enumerate(columns):
        made.add_column(name, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    # A pipe or file has no width of its own; rich would cut the rows at 80 characters.
    Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(made)


def say(text: str) -> None:
    """One line on standard output."""
    typer.echo(text)


def note(text: str) -> None:
    """One line on standard error, beside the result."""
    typer.echo(text, err=True)


def some(what: str, lines: Sequence[str], rest: str, shown: int = 20) -> None:
    """The first of the lines on standard error, how many more there are, and where."""
    for line in lines[:shown]:
        note(what + line)
    if len(lines) > shown:
        note(f"{what}{len(lines) - shown} more; {rest}")


def station(state: StationState) -> None:
    """What the station says of itself, one line per change."""
    note(f"{datetime.now():%H:%M:%S} {state.text}")


def leave(code: int) -> NoReturn:
    """End the process at once, past threads that are stuck in somebody's library."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for callbacks of (done, total); silent where nobody watches."""
    with _bars() as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def counting_with_lines(
    what: str,
) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """The same, and a way to write a line above the bar; where there is no bar, to a log."""
    with _bars() as bars:
        task = bars.add_task(what, total=None)

        def line(text: str) -> None:
            if bars.console.is_terminal:
                bars.console.print(text, markup=False, highlight=False)
            else:
                note(text)

        yield lambda done, total: bars.update(task, completed=done, total=total), line


@contextmanager
def building() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar for callbacks of (phase, done, total); None where nobody watches."""
    with _bars() as bars:
        task = bars.add_task("building the plan", total=None)

        def tell(phase: str, done: int, total: int) -> None:
            bars.update(task, description=phase[:40], completed=done, total=total)

        yield tell if bars.console.is_terminal else None


@contextmanager
def judging() -> Iterator[Callable[[Record], None]]:
    """A running count of images, of a source whose size is not known beforehand."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed}"))
    with _progress(*columns, TimeElapsedColumn()) as bars:
        task = bars.add_task("judging images", total=None)
        yield lambda record: bars.advance(task)


@contextmanager
def training() -> Iterator[Callable[[Status], None]]:
    """Progress of training: a bar per phase with loss and time left, or one line per epoch."""
    with _bars(TextColumn("{task.fields[loss]}")) as bars:
        yield _Bars(bars) if bars.console.is_terminal else _Lines()


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, status: Status) -> None:
        if status.phase not in self._tasks:
            self._tasks[status.phase] = self._bars.add_task(PHASES[status.phase], loss="")
        loss = "" if status.loss is None else f"loss {status.loss:.4f}"
        what = PHASES[status.phase]
        if status.epochs:
            what += f" {status.epoch}/{status.epochs}"
        self._bars.update(
            self._tasks[status.phase],
            completed=status.done,
            total=status.total,
            description=what,
            loss=loss,
        )


class _Lines:
    """For logs: each phase once when it begins, each epoch once when it ends."""

    def __init__(self) -> None:
        self._last: Status | None = None

    def __call__(self, status: Status) -> None:
        last = self._last
        if last is None or last.phase != status.phase:
            note(PHASES[status.phase])
        if status.phase == "train" and status.done * status.epochs == status.total * status.epoch:
            eta = f"{status.eta:.0f} s left" if status.eta is not None else ""
            note(f"epoch {status.epoch}/{status.epochs}  loss {status.loss:.4f}  {eta}")
        self._last = status


def _bars(*extra: TextColumn) -> Progress:
    return _progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *extra,
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def _progress(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    # rich would leave an empty line in a log for every bar it does not draw.
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
