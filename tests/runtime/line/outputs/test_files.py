"""JSON Lines and CSV: what is written is read back, exactly once, whatever interrupts."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanflow import schema
from sanflow.runtime.line.outputs import Site
from sanflow.runtime.line.outputs.files import LinesOutput, TableOutput
from sanflow.runtime.line.outputs.options import FilesOptions
from sanflow.runtime.line.result import PartResult

from .conftest import a_result, rejected

KINDS = {"jsonl": LinesOutput, "csv": TableOutput}


def opened(kind: str, folder: Path, **options: int) -> LinesOutput | TableOutput:
    output = KINDS[kind](FilesOptions(kind, **options), Site(folder))  # type: ignore[arg-type]
    output.open()
    return output


def parts(folder: Path, kind: str) -> list[int]:
    found = []
    for path in sorted((folder / "results").glob(f"*.{kind}")):
        with open(path, encoding="utf-8", newline="") as file:
            rows = map(json.loads, file) if kind == "jsonl" else csv.DictReader(file)
            found += [int(row["part"]) for row in rows]
    return found


def test_lines_read_back_as_the_same_results(tmp_path: Path) -> None:
    results = [a_result(1), rejected(2, detail='no frame\n"in" 50 ms'), a_result(3, encoder=-5)]
    output = opened("jsonl", tmp_path)
    for result in results:
        output.emit(result, None)
    output.close()
    lines = (tmp_path / "results" / "results-2026-01-31.jsonl").read_text("utf-8").splitlines()
    assert [schema.load(PartResult, json.loads(line)) for line in lines] == results


def test_the_table_has_a_header_and_no_formula_and_no_broken_line(tmp_path: Path) -> None:
    output = opened("csv", tmp_path)
    output.emit(a_result(1, image="=HYPERLINK(1)", source="a,b"), None)
    output.emit(rejected(2, detail="two\nlines"), None)
    output.close()
    path = tmp_path / "results" / "results-2026-01-31.csv"
    with open(path, encoding="utf-8", newline="") as file:
        one, two = csv.DictReader(file)
    assert list(one) == [f.name for f in fields(PartResult)]
    assert (one["image"], one["source"], one["score"]) == ("'=HYPERLINK(1)", "a,b", "0.5")
    assert (two["detail"], two["score"]) == ("two lines", "")
    assert path.read_bytes().count(b"\r\n") == 3


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 30), max_size=4), torn=st.integers(0, 200))
def test_after_any_interruption_each_result_is_there_once(
    kind: str, cuts: list[int], torn: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    path = folder / "results" / f"results-2026-01-31.{kind}"
    for upto in [*sorted(cuts), 30]:
        output = opened(kind, folder)
        # The slow side hands its last ones over again.
        for number in range(max(1, upto - 40), upto + 1):
            output.emit(a_result(number), None)
        output.close()
        whole = path.stat().st_size
        with open(path, "ab") as file:
            file.write(output.line(a_result(upto + 1))[:-2][:torn])
        assert path.stat().st_size >= whole
    opened(kind, folder).close()
    assert parts(folder, kind) == list(range(1001, 1031))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("foreign", ["1,2,my note", "", "null", '{"run": 1}', '"', "[1]", "\0"])
def test_lines_that_a_person_wrote_are_left_and_passed_over(
    kind: str, foreign: str, tmp_path: Path
) -> None:
    output = opened(kind, tmp_path)
    output.emit(a_result(1), None)
    output.close()
    path = tmp_path / "results" / f"results-2026-01-31.{kind}"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{foreign}\n")
    before = path.read_bytes()
    output = opened(kind, tmp_path)
    for number in (1, 2):
        output.emit(a_result(number), None)
    output.close()
    assert path.read_bytes() == before + output.line(a_result(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_per_day_and_the_oldest_go(kind: str, tmp_path: Path) -> None:
    output = opened(kind, tmp_path, keep_days=2)
    for number, day in enumerate(("2026-01-30", "2026-01-31", "2026-02-01", "2026-02-01"), 1):
        output.emit(a_result(number, created=f"{day}T12:00:00.000Z"), None)
    output.close()
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == [f"results-2026-01-31.{kind}", f"results-2026-02-01.{kind}"]
    assert parts(tmp_path, kind) == [1002, 1003, 1004]


@pytest.mark.parametrize("kind", KINDS)
def test_a_clock_that_is_years_off_costs_one_file(kind: str, tmp_path: Path) -> None:
    output = opened(kind, tmp_path, keep_days=3)
    days = ("2026-01-29", "2026-01-30", "2036-01-31", "2026-01-31", "2026-01-31")
    for number, day in enumerate(days, 1):
        output.emit(a_result(number, created=f"{day}T12:00:00.000Z"), None)
    output.close()
    assert sorted(parts(tmp_path, kind)) == [1002, 1003, 1004, 1005]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_whole_lines_and_the_result_is_taken_later(
    kind: str, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: the kernel cuts the write short."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from tests.runtime.line.outputs.test_files import opened, a_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
output = opened({kind!r}, Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
refused = None
for number in range(1, 30):
    try:
        output.emit(a_result(number), None)
    except OSError:
        refused = refused or number
        assert output.health()["error"]
        resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
        output.emit(a_result(number), None)
assert refused and refused > 1, refused
assert not output.health()["error"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert parts(tmp_path, kind) == list(range(1001, 1030))
