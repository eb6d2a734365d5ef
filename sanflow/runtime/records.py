"""What is written about each judged image, and how: one line as soon as it is known.

Every line is complete in itself (image, verdict, reason, time, bundle, engine) and flushed, so
that a power cut costs at most the line being written.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from .. import schema
from .detector import Reason, Verdict

LINES, TABLE, SUMMARY, OVERLAYS = "results.jsonl", "results.csv", "summary.json", "overlays"


@dataclass(frozen=True)
class Record:
    """One line of the results."""

    image: str
    """Path relative to the summary's `root`, with forward slashes."""
    verdict: Verdict
    score: float | None
    uncertain: bool
    reason: Reason
    detail: str
    overlay: str | None
    """The heat map's file, relative to the output folder."""
    time: str
    """When the verdict was there: UTC, ISO 8601, to the millisecond."""
    decode_ms: float
    """Reading, decoding and resizing this image."""
    engine_ms: float
    """The inference this image was part of; 0 if it never got there."""
    bundle: str
    """The manifest's digest."""
    engine: str
    """Name and version."""
    precision: str
    """Of the graph that judged."""


@dataclass
class Summary:
    """What came out of a whole source. `no_decision` > 0 means: somebody has to look."""

    source: str
    root: str
    bundle: str
    engine: str
    precision: str
    threshold: float
    started: str
    images: int = 0
    ok: int = 0
    ng: int = 0
    no_decision: int = 0
    uncertain: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """How often each reason for NO-DECISION occurred."""
    seconds: float = 0.0
    images_per_second: float = 0.0

    def count(self, record: Record) -> None:
        """Add one line."""
        self.images += 1
        self.ok += record.verdict == "OK"
        self.ng += record.verdict == "NG"
        self.uncertain += record.uncertain
        if record.verdict == "NO-DECISION":
            self.no_decision += 1
            self.reasons = dict(Counter(self.reasons) + Counter([record.reason]))


@contextmanager
def writer(out: Path) -> Iterator[Callable[[Record], None]]:
    """A function that appends one line to results.jsonl and to results.csv, and flushes both."""
    # A file name that is not valid UTF-8 must not stop the run: both formats can escape it.
    with (
        open(out / LINES, "w", encoding="ascii", newline="\n") as lines,
        open(out / TABLE, "w", encoding="utf-8", errors="backslashreplace", newline="") as table,
    ):
        rows = csv.DictWriter(table, [f.name for f in fields(Record)])
        rows.writeheader()

        def write(record: Record) -> None:
            values = schema.dump(record)
            lines.write(json.dumps(values, allow_nan=False) + "\n")
            lines.flush()
            rows.writerow({name: cell(value) for name, value in values.items()})
            table.flush()

        yield write


def cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula, and line breaks, are made harmless."""
    if not isinstance(value, str):
        return value
    value = " ".join(value.splitlines())
    return f"'{value}" if value[:1] in "=+-@\t" and value else value


def write_summary(out: Path, summary: Summary) -> None:
    """summary.json: that it exists means that the run reached its end."""
    (out / SUMMARY).write_text(json.dumps(schema.dump(summary), indent=2) + "\n", "ascii")
