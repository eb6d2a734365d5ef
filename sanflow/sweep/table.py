"""Cells to rows: mean and deviation over seeds, category by category and over all of them.

The figure of a data set is the mean over its categories, taken seed by seed, as papers do; its
deviation is that of these means over the seeds (n - 1 in the denominator; none of one seed).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .folder import Result
from .papers import Paper, find_paper
from .plan import Cell

T = TypeVar("T")

METRICS = {"image": "image AUROC", "pixel": "pixel AUROC", "aupro": "AUPRO@0.3"}
MEAN = ""
"""The category of a row over all categories."""


@dataclass(frozen=True)
class Finished:
    """A cell that is done."""

    cell: Cell
    result: Result


@dataclass(frozen=True)
class Spread:
    """A mean, its deviation over seeds, and how many seeds it is of."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Row:
    """One method and preset on one data set, or on one category of it."""

    data: str
    category: str
    method: str
    preset: str
    metrics: dict[str, Spread | None]
    paper: Paper | None
    train_seconds: float
    """Mean of a cell."""
    peak_memory: float | None
    """MiB, the largest of a cell."""
    parameters: int
    """Trained ones, of a cell."""
    missing: int
    """Cells of this row that are not done; the row is of the others."""


def rows_of(finished: Sequence[Finished], cells: Sequence[Cell]) -> tuple[Row, ...]:
    """For each data set its categories and then, if it has several, the row over all of them.

    A row over all categories leaves out seeds of which a category is missing.
    """
    rows = []
    for data in _distinct(cell.data for cell in cells):
        own = [cell for cell in cells if cell.data == data]
        categories = _distinct(cell.category for cell in own)
        variants = _distinct((cell.method, cell.preset) for cell in own)
        for chosen in [[c] for c in categories] + ([categories] if len(categories) > 1 else []):
            for variant in variants:
                asked = [c for c in own if (c.method, c.preset) == variant and c.category in chosen]
                names = {c.name for c in asked}
                done = [f for f in finished if f.cell.name in names]
                if done:
                    rows.append(_row(asked, done, chosen[0] if len(chosen) == 1 else MEAN))
    return tuple(rows)


def _row(asked: list[Cell], done: list[Finished], category: str) -> Row:
    first = done[0].cell
    categories = len({cell.category for cell in asked})
    by_seed: dict[int, list[Finished]] = {}
    for found in done:
        by_seed.setdefault(found.cell.seed, []).append(found)
    whole = [found for found in by_seed.values() if len(found) == categories]
    memory = [f.result.peak_memory for f in done if f.result.peak_memory is not None]
    return Row(
        data=first.data,
        category=category,
        method=first.method,
        preset=first.preset,
        metrics={name: _spread(whole, name) for name in METRICS},
        paper=find_paper(first, category),
        train_seconds=sum(f.result.seconds["train"] for f in done) / len(done),
        peak_memory=max(memory, default=None),
        parameters=done[0].result.parameters["trained"],
        missing=len(asked) - len(done),
    )


def _spread(seeds: list[list[Finished]], metric: str) -> Spread | None:
    means = []
    for found in seeds:
        values = [f.result.metrics[metric] for f in found]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            return None
        means.append(math.fsum(known) / len(known))
    if not means:
        return None
    mean = math.fsum(means) / len(means)
    if len(means) == 1:
        return Spread(mean, None, 1)
    squares = math.fsum((value - mean) ** 2 for value in means)
    return Spread(mean, math.sqrt(squares / (len(means) - 1)), len(means))


def _distinct(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
