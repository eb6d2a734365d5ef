"""What became of the parts of each day: a small file per day that people and spreadsheets read.

    summary/2026-01-31.json

The file of a day is also what the counting goes on from after a restart, with the last result that
is in it: one that comes a second time is not counted twice. If the slow process is killed, half a
second of parts may be missing here; the archive is the record.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock
from typing import Any

from .... import schema
from ....errors import ConfigError
from ..output import StationState
from ..result import PartResult
from ..whole import write_whole

SAVE = 0.4
"""Seconds after which the file is written again, while parts come."""
MOST_FAULTS = 50
"""Faults of different words in a day."""
STEPS = 20
"""Classes of times per power of ten: quantiles are at most 12 % too long."""

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass
class Day:
    """One day (UTC) in numbers."""

    date: str
    first: str = ""
    """When its first verdict was given."""
    last: str = ""
    parts: int = 0
    ok: int = 0
    ng: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    uncertain: int = 0
    hours: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Parts and rejects of each hour, 00 to 23."""
    bundles: dict[str, int] = field(default_factory=dict)
    """Judged parts of each bundle."""
    times: dict[str, int] = field(default_factory=dict)
    """Verdicts by class of their time from the trigger: class k is 10^(k / 20) ms at most."""
    slowest_ms: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    """What the station said, in words, and how often."""
    drift: dict[str, int] = field(default_factory=dict)
    """Alarms of each signal."""
    done: dict[str, int] = field(default_factory=dict)
    """The last result of each process life that is in here."""

    def time_ms(self, share: float) -> float | None:
        """That so large a share of the verdicts took at most; None without any."""
        wanted = share * sum(self.times.values())
        seen = 0
        for step in sorted(map(int, self.times)):
            seen += self.times[str(step)]
            if seen >= wanted:
                return round(min(10 ** (step / STEPS), self.slowest_ms), 3)
        return None

    def count(self, result: PartResult) -> bool:
        """Add one verdict; False if it is in here already."""
        if result.result <= self.done.get(result.run, 0):
            return False
        self.done[result.run] = result.result
        self.first, self.last = self.first or result.created, result.created
        rejected = result.verdict == "NG"
        self.parts += 1
        self.ok += not rejected
        self.ng += rejected
        self.uncertain += result.uncertain
        parts, rejects = self.hours.get(result.created[11:13], (0, 0))
        self.hours[result.created[11:13]] = (parts + 1, rejects + rejected)
        if rejected:
            _add(self.reasons, result.reason)
        if result.score is not None:
            _add(self.bundles, result.bundle)
        _add(self.times, str(math.ceil(STEPS * math.log10(max(result.total_ms, 1e-3)))))
        self.slowest_ms = max(self.slowest_ms, result.total_ms)
        return True


class Summary:
    """Today's file, kept up to date, and the older ones."""

    def __init__(self, folder: Path, keep_days: int) -> None:
        """`folder` is the station's; files beyond `keep_days` are removed, the oldest first."""
        self._folder, self._keep = folder / "summary", keep_days
        self._day: Day | None = None
        self._lock = RLock()
        self._saved_at = -math.inf
        self._fault = ""
        self.trouble = ""
        """Why the file could not be written; empty once it could."""
        self._changed = False

    def count(self, result: PartResult) -> bool:
        """Add one verdict; False if it was counted already."""
        with self._lock:
            counted = self._on(result.created[:10]).count(result)
            self._changed |= counted
            return counted

    def announce(self, state: StationState) -> None:
        """A fault that the station did not say before is counted."""
        with self._lock:
            if state.fault and state.fault != self._fault:
                day = self._day or self._on(datetime.now(timezone.utc).strftime("%Y-%m-%d"))
                known = state.fault in day.faults or len(day.faults) < MOST_FAULTS
                _add(day.faults, state.fault if known else "others")
                self._changed = True
            self._fault = state.fault

    def alarm(self, signal: str) -> None:
        """A signal of drift began."""
        with self._lock:
            if self._day is not None:
                _add(self._day.drift, signal)
                self._changed = True

    def save(self, *, force: bool = False) -> None:
        """Write today's file if it is time to; see `trouble` if the disk does not take it."""
        now = time.monotonic()
        if self._day is None or not self._changed:
            return
        if now - self._saved_at < SAVE and not force:
            return
        self._saved_at = now
        path = self._path(self._day.date)
        try:
            new = not path.exists()
            write_whole(path, (json.dumps(written(self._day), indent=1) + "\n").encode("utf-8"))
            for old in self._files()[: -self._keep] if new else []:
                old.unlink(missing_ok=True)
        except OSError as error:  # the other views must not wait for a disk
            self.trouble = f"{path}: {error.strerror}"
        else:
            self.trouble, self._changed = "", False

    def today(self) -> dict[str, Any]:
        """As `written`: the day of the last verdict, or of a fault; empty before there was one."""
        with self._lock:
            return written(self._day or Day(""))

    def days(self, most: int) -> Iterator[Day]:
        """The latest days, the latest first."""
        for path in self._files()[: -most - 1 : -1]:
            if (day := _load(path)) is not None:
                yield day

    def _on(self, date: str) -> Day:
        if self._day is None or self._day.date != date:
            self.save(force=True)
            self._day = _load(self._path(date)) or Day(date)
        return self._day

    def _path(self, date: str) -> Path:
        return self._folder / f"{date}.json"

    def _files(self) -> list[Path]:
        return sorted(p for p in self._folder.glob("*.json") if _DAY.fullmatch(p.stem))


def written(day: Day) -> dict[str, Any]:
    """As the file has it: the counts, and the times that half and nearly all verdicts took."""
    quantiles = {f"p{100 * q:g}_ms": day.time_ms(q) for q in (0.5, 0.99, 0.999)}
    return {**schema.dump(day), **quantiles}


def _load(path: Path) -> Day | None:
    """A day's file; None if there is none, or a person changed it to something else."""
    try:
        found = json.loads(path.read_text("utf-8"))
        for name in [name for name in found if re.fullmatch(r"p[\d.]+_ms", name)]:
            del found[name]
        return schema.load(Day, found, path.name)
    except (OSError, ValueError, TypeError, ConfigError):
        return None


def _add(table: dict[str, int], name: str) -> None:
    table[name] = table.get(name, 0) + 1
