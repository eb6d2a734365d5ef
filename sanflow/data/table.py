"""CSV files as spreadsheets save them: UTF-8 with or without a mark, commas or semicolons."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError


def read_rows(path: Path, required: tuple[str, ...]) -> Iterable[tuple[int, dict[str, str]]]:
    """The number and the stripped cells of each line, by the stripped names of its columns.

    DataError without a `required` column, and where a quote is not closed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a UTF-8 CSV file ({error})") from None
    head = text.split("\n", 1)[0]
    # Strict: a quote that is never closed would take all lines after it for one cell.
    delimiter = ";" if ";" in head else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        missing = [c for c in required if c not in reader.fieldnames]
        if missing:
            raise DataError(
                f"{path}: no column {', '.join(missing)}; its first line must name the columns "
                f"{', '.join(required)}"
            )
        for row in reader:
            cells = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{path}: cannot be read as a CSV file ({error}, line {reader.line_num}); is a quote "
            "not closed?"
        ) from None
