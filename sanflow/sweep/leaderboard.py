"""The tables of a sweep: Markdown for a repository, CSV for a spreadsheet, an HTML page to look at.

OUT/leaderboard.md, leaderboard.html     a table per data set, and one per category below
OUT/leaderboard.csv                      its rows
OUT/cells.csv                            a line per finished cell
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import __version__
from ..evaluation.page import environment
from ..run import now, replace_file
from .plan import Cell
from .table import MEAN, METRICS, Finished, Row, Spread, rows_of

STEM, CELLS_TABLE = "leaderboard", "cells.csv"
RULE = (
    "Rule of every cell: the weights of the last epoch; score constants from training images, the "
    "threshold from held-out good parts, nothing chosen on test images; ± is the deviation over "
    "seeds. AUPRO is integrated exactly to a false-positive rate of 0.3."
)
PAPER_RULE = (
    "Published figures (image AUROC / pixel AUROC / AUPRO, percent) were chosen on the test set in "
    "one way or another, and their extractor, input size and training differ: a reference, no bar."
)


def write_leaderboard(finished: Sequence[Finished], cells: Sequence[Cell], out: Path) -> None:
    """Write all four files from the cells that are done; each file is replaced whole."""
    rows = rows_of(finished, cells)
    texts = {
        f"{STEM}.md": _markdown(rows, finished, len(cells)),
        f"{STEM}.csv": _csv(_row_values(row) for row in rows),
        f"{STEM}.html": _html(rows, finished, len(cells)),
        CELLS_TABLE: _csv(_cell_values(found) for found in finished),
    }
    for name, text in texts.items():
        _write(out / name, text)


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write_text(text, encoding="utf-8", newline=""))


def spread(value: Spread | None) -> str:
    """`0.987 ± 0.002`, without a deviation where there is one seed."""
    if value is None:
        return "–"
    text = f"{value.mean:.4f}"
    return text if value.deviation is None else f"{text} ± {value.deviation:.4f}"


def groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The tables of the page: title and rows, best first; a data set before its categories."""
    keys = list(dict.fromkeys((row.data, row.category) for row in rows))
    keys.sort(key=lambda key: (key[0], key[1] != MEAN))
    made = []
    for data, category in keys:
        own = [row for row in rows if (row.data, row.category) == (data, category)]
        several = category == MEAN and any(r.category != MEAN for r in rows if r.data == data)
        title = f"{data}, mean of all categories" if several else f"{data} {category}".strip()
        made.append((title, sorted(own, key=_rank)))
    return made


def _rank(row: Row) -> tuple[float, str, str]:
    image = row.metrics["image"]
    return (-image.mean if image else 1.0, row.method, row.preset)


def _markdown(rows: Sequence[Row], finished: Sequence[Finished], cells: int) -> str:
    lines = ["# Leaderboard", "", f"{_progress(finished, cells)} {RULE}", "", PAPER_RULE]
    heads = ["method", "preset", *METRICS.values(), "published", "seeds", "train", "memory"]
    for title, own in groups(rows):
        lines += ["", f"## {title}", ""]
        lines += ["| " + " | ".join(heads) + " |", "|---|---" + "|---:" * (len(heads) - 2) + "|"]
        lines += ["| " + " | ".join(_shown(row)) + " |" for row in own]
    sources = sorted({f"{r.method}: {r.paper.source}" for r in rows if r.paper})
    lines += ["", f"Trained with sanflow {__version__}; {_software(finished)}."]
    if sources:
        lines += ["", "Published: " + "; ".join(sources) + "."]
    return "\n".join(lines) + "\n"


def _shown(row: Row) -> list[str]:
    image = row.metrics["image"]
    return [
        row.method,
        row.preset,
        *(spread(row.metrics[name]) for name in METRICS),
        row.paper.text() + (f" ({row.paper.extractor})" if row.paper.extractor else "")
        if row.paper
        else "–",
        (str(image.seeds) if image else "0") + (f", {row.missing} missing" if row.missing else ""),
        duration(row.train_seconds),
        "–" if row.peak_memory is None else f"{row.peak_memory:.0f} MiB",
    ]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to three digits."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _row_values(row: Row) -> dict[str, object]:
    values: dict[str, object] = {
        "data": row.data,
        "category": row.category,
        "method": row.method,
        "preset": row.preset,
    }
    for name in METRICS:
        found = row.metrics[name]
        values[name] = "" if found is None else repr(found.mean)
        values[f"{name}_deviation"] = (
            "" if found is None or found.deviation is None else repr(found.deviation)
        )
        published = getattr(row.paper, name) if row.paper else None
        values[f"{name}_published"] = "" if published is None else published / 100
    image = row.metrics["image"]
    return {**values, "seeds": image.seeds if image else 0, "missing_cells": row.missing}


def _cell_values(found: Finished) -> dict[str, object]:
    cell, result = found.cell, found.result
    return {
        "cell": cell.name,
        "data": cell.data,
        "category": cell.category,
        "method": cell.method,
        "preset": cell.preset,
        "seed": cell.seed,
        **{name: "" if v is None else repr(v) for name, v in result.metrics.items()},
        **{f"images_{role}": count for role, count in result.images.items()},
        "flips": result.parity["flips"],
        "parameters_trained": result.parameters["trained"],
        "parameters_all": result.parameters["all"],
        **{f"seconds_{name}": value for name, value in result.seconds.items()},
        "peak_memory_mib": "" if result.peak_memory is None else round(result.peak_memory),
        "attempts": result.attempts,
        "host": result.host,
        "created": result.created,
    }


def _csv(lines: Iterable[dict[str, object]]) -> str:
    rows, text = list(lines), io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _html(rows: Sequence[Row], finished: Sequence[Finished], cells: int) -> str:
    made = environment(Path(__file__).parent)
    made.filters |= {"spread": spread, "duration": duration}
    return made.get_template("leaderboard.html.j2").render(
        groups=groups(rows),
        best=_best,
        metrics=METRICS,
        cells=sorted(finished, key=lambda f: f.cell.name),
        progress=_progress(finished, cells),
        rule=RULE,
        paper_rule=PAPER_RULE,
        software=_software(finished),
        version=__version__,
        created=now(),
    )


def _best(rows: Sequence[Row], metric: str) -> float | None:
    """The highest of a table's figures; None where there is nothing to compare."""
    found = [value.mean for row in rows if (value := row.metrics[metric]) is not None]
    return max(found) if len(found) > 1 else None


def _progress(finished: Sequence[Finished], cells: int) -> str:
    return f"{len(finished)} of {cells} cells are done."


def _software(finished: Sequence[Finished]) -> str:
    found = sorted({f"{k} {v}" for f in finished for k, v in f.result.versions.items()})
    return ", ".join(found)
