"""Results as lines of text that any program reads: JSON Lines and CSV, a file per day.

A line is written whole and handed to the operating system at once. Results that come a second time
after a crash are known by run and number, and not written again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from .... import schema
from ...records import cell
from ..output import Output, Picture
from ..result import PartResult
from . import Site
from .options import FilesOptions

TAIL = 8 * 2**20
"""Bytes at the end of a file in which results are looked for that come a second time."""

_COLUMNS = [f.name for f in fields(PartResult)]


class _DailyFiles(Output):
    suffix: ClassVar[str]
    header: ClassVar[bytes] = b""

    def __init__(self, options: FilesOptions, site: Site) -> None:
        super().__init__(options.name)
        self._folder = site.folder / options.folder
        self._keep = options.keep_days
        self._day = ""
        self._descriptor: int | None = None
        self._size = 0
        self._seen: dict[str, int] = {}
        self._written = 0
        self._error = ""

    def open(self) -> None:
        """Go on in the newest file: half a line that a power cut left is taken off."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._seen = {}
        if newest := self._files()[-1:]:
            self._begin(newest[0].stem.removeprefix("results-"))
            for line in _tail(newest[0]):
                if (known := self._known(line)) is not None:
                    run, result = known
                    self._seen[run] = max(result, self._seen.get(run, 0))

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """Append the result; OSError if the disk does not take it."""
        if result.result <= self._seen.get(result.run, 0):
            return
        try:
            if result.created[:10] != self._day:
                self._begin(result.created[:10])
            self._append(self.line(result))
        except OSError as error:
            self._error = str(error)
            raise
        self._seen[result.run] = result.result
        self._written += 1
        self._error = ""

    def health(self) -> dict[str, Any]:
        """Lines written since the start, and the last error."""
        return {"written": self._written, "error": self._error}

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _known(self, line: str) -> tuple[str, int] | None:
        """As `known`; a line that a person or another version wrote is none of ours."""
        try:
            run, result = self.known(line) or ("", 0)
            return (str(run), int(result)) if run else None
        except (LookupError, TypeError, ValueError, StopIteration, csv.Error):
            return None

    @abstractmethod
    def line(self, result: PartResult) -> bytes:
        """One result with its line's end."""

    @abstractmethod
    def known(self, line: str) -> tuple[str, int] | None:
        """Run and number of the result in a line; None if it holds none."""

    def _files(self) -> list[Path]:
        name = re.compile(r"results-\d{4}-\d\d-\d\d\." + self.suffix)
        return sorted(p for p in self._folder.iterdir() if name.fullmatch(p.name))

    def _begin(self, day: str) -> None:
        path = self._folder / f"results-{day}.{self.suffix}"
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.close()
        self._descriptor, self._day = opened, day
        self._size = _whole_lines(opened)
        os.ftruncate(opened, self._size)
        if self._size == 0 and self.header:
            self._append(self.header)
        # The number of files counts, not their dates: a clock that is years off removes one.
        for old in self._files()[: -self._keep]:
            if old != path:
                old.unlink(missing_ok=True)

    def _append(self, data: bytes) -> None:
        assert self._descriptor is not None
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                raise OSError(f"{self.name}: the disk took {written} of {len(data)} bytes")
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += written


class LinesOutput(_DailyFiles):
    """JSON Lines."""

    suffix = "jsonl"

    def line(self, result: PartResult) -> bytes:
        """As the journal has it."""
        return json.dumps(schema.dump(result), allow_nan=False).encode() + b"\n"

    def known(self, line: str) -> tuple[str, int] | None:
        """From the fields `run` and `result`."""
        row = json.loads(line)
        return row["run"], row["result"]


class TableOutput(_DailyFiles):
    """CSV with a header, UTF-8, a point in numbers, True and False in words."""

    suffix = "csv"
    header = ",".join(_COLUMNS).encode() + b"\r\n"

    def line(self, result: PartResult) -> bytes:
        """The fields in the header's order."""
        text = io.StringIO()
        csv.writer(text).writerow(cell(getattr(result, name)) for name in _COLUMNS)
        return text.getvalue().encode("utf-8", "backslashreplace")

    def known(self, line: str) -> tuple[str, int] | None:
        """From the columns `run` and `result`; None for the header."""
        row = dict(zip(_COLUMNS, next(csv.reader([line])), strict=True))
        return (row["run"], int(row["result"])) if row["result"].isdigit() else None


def _whole_lines(descriptor: int) -> int:
    """The bytes up to the end of the last whole line."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _tail(path: Path) -> Iterator[str]:
    """The last whole lines of a file: what a restart may hand over again lies there."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        if size > TAIL:
            file.readline()
        for line in file:
            yield line.decode("utf-8", "replace")
