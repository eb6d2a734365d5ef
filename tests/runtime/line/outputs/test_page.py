"""docs/outputs.md says what the outputs do: its tables, its examples, its registers."""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from pathlib import Path

import pytest

from sanflow.runtime.line.outputs import OUTPUTS, load_options
from sanflow.runtime.line.outputs import registers as r
from sanflow.runtime.line.outputs.options import ArchiveOptions, OutputOptions

from .conftest import a_result, a_state

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = (Path(__file__).parents[4] / "docs" / "outputs.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.S | re.M)


def rows(header: str) -> list[list[str]]:
    """The cells of the table with this header."""
    (table,) = re.findall(rf"^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_taken(example: str) -> None:
    tables = tomllib.loads(example)
    load_options(tables.get("output", []), tables.get("archive"))


def test_every_kind_and_every_option_is_shown() -> None:
    tables = [tomllib.loads(example) for example in EXAMPLES]
    shown: dict[str, set[str]] = {}
    for table in tables:
        for output in table.get("output", []):
            shown.setdefault(output["kind"], set()).update(output)
    shown["jsonl"] = shown["csv"]
    assert set(shown) == set(OUTPUTS)
    for options in typing.get_args(OutputOptions):
        kinds = typing.get_args(typing.get_type_hints(options)["kind"])
        for kind in kinds:
            assert shown[kind] == {f.name for f in dataclasses.fields(options)}, kind
    (archive,) = (table["archive"] for table in tables if "archive" in table)
    assert set(archive) == {f.name for f in dataclasses.fields(ArchiveOptions)}
    assert ArchiveOptions(**archive) == ArchiveOptions()
    for name, kind in OUTPUTS.items():
        (row,) = [
            row for row in rows("| kind | what for | side | install |") if f"`{name}`" in row[0]
        ]
        assert row[2].startswith("fast" if kind.fast else "slow")
        assert ("forwards" in row[2]) == kind.forwards
        if kind.library:
            assert f"sanflow[{name}]" in row[3]


def test_the_registers_are_where_the_page_says() -> None:
    written, status = (
        {cells[1]: [int(n) for n in re.findall(r"\d+", cells[0])] for cells in table}
        for table in _registers()
    )
    assert written == {
        "trigger": [r.TRIGGER],
        "part id": [r.PART, r.PART + 1],
        "recipe": [r.RECIPE],
        "reserved": [r.RECIPE + 1, r.COMMANDS - 1],
    }
    registers = r.Registers()
    registers.write(0, [0])
    registers.write(0, [7, 1, 2, 9])
    registers.state(a_state(state="Running", heartbeat=77, queue=5, bundle="deadbeef"))
    for number in range(1, 12):
        registers.result(a_result(number))
    words = registers.read()
    shown = {name: words[at[0] : at[-1] + 1] for name, at in status.items()}
    assert shown["layout"] == [r.LAYOUT]
    assert shown["heartbeat"] == [77]
    assert shown["trigger echo"] == [7]
    assert shown["part id echo"] == [1, 2]
    assert shown["recipe echo"] == [9]
    assert shown["parts waiting"] == [5]
    assert shown["bundle"] == [0xDEAD, 0xBEEF]
    assert shown["flags"] == [r.READY | r.BUSY | r.ARMED]
    assert len(shown["latest result"]) == r.RECORD
    ring = status["last 8 results"]
    assert ring[0] + r.RECORD * r.RECORDS - 1 == ring[1] == r.END - 1
    eleventh = ring[0] + r.RECORD * ((11 - 1) % r.RECORDS)
    assert words[eleventh : eleventh + r.RECORD] == shown["latest result"]


def _registers() -> list[list[list[str]]]:
    found = re.findall(r"^\| register \| name .*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    assert len(found) == 2
    return [[[c.strip() for c in row.split("|")[1:4]] for row in t.splitlines()] for t in found]


def test_numbers_mean_what_the_page_says() -> None:
    record = {cells[1]: cells for cells in rows("| offset | name | meaning |")}
    reasons = dict(re.findall(r"(\d+) (\w+)", record["reason"][2]))
    assert [reasons[str(n)] for n in range(1, len(r.REASONS))] == list(r.REASONS[1:])
    assert f"{r.OK} OK, {r.NG} NG" in record["verdict"][2]
    (states,) = re.findall(r"\| 17 \| state \| (.*?) \|", PAGE)
    assert [s.split()[1] for s in states.split(", ")] == list(r.STATES)
    offsets = [int(n) for cells in record.values() for n in re.findall(r"\d+", cells[0])]
    assert offsets == list(range(r.RECORD))
    flags = {"ready": r.READY, "busy": r.BUSY, "fault": r.FAULT, "armed": r.ARMED}
    (said,) = re.findall(r"\| 18 \| flags \| (.*?) \|", PAGE)
    for name, bit in {**flags, "warning": r.WARNING}.items():
        number = re.findall(rf"(\d) {name}", said)[0]
        assert 1 << int(number) == bit
