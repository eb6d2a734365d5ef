"""CSV files as spreadsheets save them: UTF-8 with or without a mark, commas or semicolons."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError


def read_rows(path: Path, required: tuple[str, ...]) -> Iterable[tuple[int, dict[str, str]]]:
    """The number and the stripped cells of each line; DataError without a `required` column."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a UTF-8 CSV file ({error})") from None
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(text.splitlines(), delimiter=";" if ";" in head else ",")
    missing = [c for c in required if c not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; its first line must name the columns "
            f"{', '.join(required)}"
        )
    for row in reader:
        yield reader.line_num, {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
