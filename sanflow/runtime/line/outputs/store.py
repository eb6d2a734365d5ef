"""The archive's SQLite file: every result once, which pictures belong to it, and who sent what on.

WAL, so that readers never hold up the writer: any SQLite program may look while the line runs. A
row's `id` counts over all lives of the station; forwarding outputs keep the last id they delivered
in the table `forwarded`, so that they go on there after any interruption.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .... import schema
from ..output import OutputError
from ..result import PartResult

FILE = "archive.sqlite"
VERSION = 1

_COLUMNS = [f.name for f in fields(PartResult)]
_TYPES = {"bool": "INTEGER", "int": "INTEGER", "float": "REAL"}
_FLAGS = [f.name for f in fields(PartResult) if f.type == "bool"]


def _column(name: str, kind: str) -> str:
    base, _, optional = kind.partition(" | ")
    return f"{name} {_TYPES.get(base, 'TEXT')}{'' if optional else ' NOT NULL'}"


_SCHEMA = f"""
CREATE TABLE results (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  {", ".join(_column(f.name, str(f.type)) for f in fields(PartResult))},
  UNIQUE (run, result)
);
CREATE INDEX results_part ON results (part);
CREATE INDEX results_ng ON results (id) WHERE verdict = 'NG';
CREATE TABLE pictures (
  id INTEGER PRIMARY KEY REFERENCES results ON DELETE CASCADE,
  picture TEXT NOT NULL,
  map TEXT,
  map_low REAL,
  map_high REAL,
  bytes INTEGER NOT NULL
);
CREATE TABLE days (day TEXT PRIMARY KEY, first INTEGER NOT NULL);
CREATE TABLE forwarded (name TEXT PRIMARY KEY, id INTEGER NOT NULL);
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True)
class PictureRow:
    """The files of one result's pictures, relative to the archive's folder."""

    id: int
    picture: str
    map: str | None
    """Grey PNG of 16 bits: 0 is `map_low`, 65535 is `map_high`."""
    map_low: float | None
    map_high: float | None
    bytes: int


class Store:
    """One connection; any thread may call, one at a time gets through.

    Every method raises OSError when the disk does not take or give what is asked.
    """

    def __init__(self, folder: Path) -> None:
        """Open the archive in this folder, or begin one; OutputError if the file is none."""
        self.path = folder / FILE
        self._lock = threading.Lock()
        with _as_os_error(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(
                self.path, timeout=10.0, isolation_level=None, check_same_thread=False
            )
            try:
                self._begin()
            except BaseException:
                self._base.close()
                raise

    def _begin(self) -> None:
        try:
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("PRAGMA foreign_keys = ON")
            # KiB. SQLite's 2 MB would fill over hours; rows are appended, and rarely read.
            self._base.execute("PRAGMA cache_size = -256")
            self._base.execute("BEGIN IMMEDIATE")
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._base.execute(statement)
                version = VERSION
            self._base.execute("COMMIT")
            found = self._base.execute("SELECT name FROM pragma_table_info('results')").fetchall()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise OutputError(
                f"{self.path}: is no archive ({error}); move it away, a new one is begun"
            ) from None
        if version != VERSION or [name for (name,) in found] != ["id", *_COLUMNS]:
            raise OutputError(
                f"{self.path}: is the archive of another version of sanflow; give another folder "
                "in [archive]"
            )

    def add(self, result: PartResult) -> int | None:
        """Keep a result; its id, or None if it is there already."""
        marks = ", ".join("?" * len(_COLUMNS))
        sql = f"INSERT OR IGNORE INTO results ({', '.join(_COLUMNS)}) VALUES ({marks})"
        values = [getattr(result, name) for name in _COLUMNS]
        with self._use() as base, base:
            base.execute("BEGIN")
            done = base.execute(sql, values)
            if not done.rowcount:
                return None
            day = (result.created[:10], done.lastrowid)
            base.execute("INSERT OR IGNORE INTO days VALUES (?, ?)", day)
            return done.lastrowid

    def after(self, id: int, count: int) -> list[tuple[int, PartResult]]:
        """Up to `count` results behind this id, in order."""
        sql = f"SELECT id, {', '.join(_COLUMNS)} FROM results WHERE id > ? ORDER BY id LIMIT ?"
        with self._use() as base:
            return [(row[0], _result(row[1:])) for row in base.execute(sql, (id, count))]

    def has(self, result: PartResult) -> bool:
        """Whether this result is there."""
        sql = "SELECT 1 FROM results WHERE run = ? AND result = ?"
        with self._use() as base:
            return base.execute(sql, (result.run, result.result)).fetchone() is not None

    def ends(self) -> tuple[int, int]:
        """The ids of the oldest and of the newest result; 0 and 0 without one."""
        with self._use() as base:
            first, last = base.execute("SELECT min(id), max(id) FROM results").fetchone()
        return first or 0, last or 0

    def forwarded(self, name: str) -> int:
        """The id up to which this output has delivered; a new output begins with what comes."""
        with self._use() as base:
            base.execute(
                "INSERT OR IGNORE INTO forwarded "
                "VALUES (?, (SELECT coalesce(max(id), 0) FROM results))",
                (name,),
            )
            sql = "SELECT id FROM forwarded WHERE name = ?"
            (found,) = base.execute(sql, (name,)).fetchone()
            return int(found)

    def forward(self, name: str, id: int) -> None:
        """This output has delivered up to this id."""
        with self._use() as base:
            base.execute("UPDATE forwarded SET id = ? WHERE name = ?", (id, name))

    def add_picture(self, row: PictureRow) -> None:
        """The files that belong to a result; nothing if the result was removed meanwhile."""
        sql = (
            "INSERT OR REPLACE INTO pictures SELECT ?, ?, ?, ?, ?, ? "
            "WHERE EXISTS (SELECT 1 FROM results WHERE id = ?)"
        )
        values = (row.id, row.picture, row.map, row.map_low, row.map_high, row.bytes)
        with self._use() as base:
            base.execute(sql, (*values, row.id))

    def pictures(self, count: int, below: int | None = None) -> list[PictureRow]:
        """The oldest pictures, of results below this id where one is given."""
        sql = "SELECT * FROM pictures WHERE id < ? ORDER BY id LIMIT ?"
        with self._use() as base:
            found = base.execute(sql, (2**62 if below is None else below, count))
            return [PictureRow(*row) for row in found]

    def picture_bytes(self) -> int:
        """The bytes of all pictures' files."""
        with self._use() as base:
            (found,) = base.execute("SELECT coalesce(sum(bytes), 0) FROM pictures").fetchone()
            return int(found)

    def drop_picture(self, id: int) -> None:
        """Forget a picture whose files are gone."""
        with self._use() as base:
            base.execute("DELETE FROM pictures WHERE id = ?", (id,))

    def expired(self, keep_days: int, keep_results: int) -> int:
        """The id below which results are older than the newest `keep_results`, or than the newest
        `keep_days` days that have results.

        Days that passed without results do not count: a clock that is years off for a while
        costs the oldest day, not the archive.
        """
        sql = "SELECT first FROM days ORDER BY first DESC LIMIT 1 OFFSET ?"
        with self._use() as base:
            day = base.execute(sql, (keep_days - 1,)).fetchone()
            (last,) = base.execute("SELECT max(id) FROM results").fetchone()
        return max(day[0] if day else 0, (last or 0) - keep_results + 1, 0)

    def trim(self, below: int, most: int = 5000) -> int:
        """Remove up to `most` results below this id, the oldest first, and return how many; the
        files of their pictures must be gone."""
        old = "SELECT id FROM results WHERE id < ? ORDER BY id LIMIT ?"
        days = "SELECT coalesce(max(first), 0) FROM days WHERE first <= ?"
        with self._use() as base, base:
            base.execute("BEGIN")
            gone = base.execute(f"DELETE FROM results WHERE id IN ({old})", (below, most)).rowcount
            base.execute(f"DELETE FROM days WHERE first < ({days})", (below,))
            return gone

    def close(self) -> None:
        """Close the connection; never raises."""
        with self._lock:
            self._base.close()

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _as_os_error(self.path):
            yield self._base


def _result(values: tuple[Any, ...]) -> PartResult:
    row = dict(zip(_COLUMNS, values, strict=True))
    row |= {name: bool(row[name]) for name in _FLAGS}
    return schema.load(PartResult, row, "archive")


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """SQLite says that the disk is full in its own way; a caller should see one way."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise OSError(code, f"{os.strerror(code)} ({error})", str(path)) from error
