"""The archive's file: each result once, kept as long as asked, sent on from where it was left."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanflow.runtime.line.output import OutputError
from sanflow.runtime.line.outputs.store import FILE, PictureRow, Store

from .conftest import a_result, rejected


def picture(id: int, size: int = 10) -> PictureRow:
    return PictureRow(id, f"pictures/{id}.png", f"maps/{id}.png", 0.25, 4.0, size)


def test_results_read_back_as_they_were(tmp_path: Path) -> None:
    results = [a_result(1), rejected(2), a_result(3, uncertain=True, encoder=2**40, image="ü.png")]
    store = Store(tmp_path)
    assert [store.add(result) for result in results] == [1, 2, 3]
    assert [store.add(result) for result in results] == [None, None, None]
    assert store.after(0, 10) == list(enumerate(results, 1))
    assert store.after(1, 1) == [(2, results[1])]
    assert store.ends() == (1, 3)


def test_the_same_number_of_another_run_is_another_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.add(a_result(1)) != store.add(a_result(1, run="run-2"))


def test_an_output_that_is_new_begins_with_what_comes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(a_result(1))
    assert store.forwarded("mqtt") == 1
    store.add(a_result(2))
    assert store.forwarded("mqtt") == 1
    store.forward("mqtt", 2)
    store.close()
    assert Store(tmp_path).forwarded("mqtt") == 2


@settings(max_examples=30, deadline=None)
@given(
    days=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    keep_days=st.integers(1, 5),
    keep=st.integers(1, 30),
)
def test_the_newest_results_and_days_stay(
    days: list[int], keep_days: int, keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Days in any order, as a clock that is set to and fro makes them."""
    store = Store(tmp_path_factory.mktemp("store"))
    for number, day in enumerate(days, 1):
        store.add(a_result(number, created=f"2026-01-{day + 1:02d}T12:00:00.000Z"))
        store.add_picture(picture(number))
    below = store.expired(keep_days, keep)
    while store.trim(below, most=3):
        pass
    left = [id for id, _ in store.after(0, 100)]
    assert left == list(range(max(below, 1), len(days) + 1))
    assert [row.id for row in store.pictures(100)] == left
    first_seen = sorted(days.index(day) + 1 for day in set(days))
    oldest_day = first_seen[-keep_days] if len(first_seen) > keep_days else 1
    assert left[0] == max(oldest_day, len(days) - keep + 1)
    assert store.expired(keep_days, keep) <= max(below, 1)
    store.close()


def test_a_picture_of_a_result_that_is_gone_is_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(a_result(1))
    store.add_picture(picture(1, 7))
    store.add_picture(picture(2, 5))
    assert store.pictures(10) == [picture(1, 7)]
    assert store.picture_bytes() == 7
    store.drop_picture(1)
    assert store.picture_bytes() == 0


def test_a_reader_looks_while_the_writer_writes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(a_result(1))
    reader = sqlite3.connect(tmp_path / FILE)
    rows = reader.execute("SELECT part, verdict FROM results ORDER BY id")
    assert rows.fetchone() == (1001, "OK")
    store.add(a_result(2))
    assert reader.execute("SELECT count(*) FROM results").fetchone() == (2,)


def test_a_process_that_is_killed_loses_no_row_it_was_told_of(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from sanflow.runtime.line.outputs.store import Store
from tests.runtime.line.outputs.conftest import a_result
store = Store(Path({str(tmp_path)!r}))
for number in range(1, 51):
    assert store.add(a_result(number)) == number
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(Store(tmp_path).after(0, 100)) == 50


def test_another_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"my own notes" * 100)
    with pytest.raises(OutputError, match=r"archive\.sqlite: is no archive .*move it away"):
        Store(tmp_path)
    assert path.read_bytes() == b"my own notes" * 100


@pytest.mark.parametrize(
    "change", ["PRAGMA user_version = 7", "ALTER TABLE results DROP COLUMN encoder"]
)
def test_an_archive_of_another_version_is_refused(change: str, tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as base:
        base.execute(change)
    with pytest.raises(OutputError, match="archive of another version of sanflow; give another"):
        Store(tmp_path)


def test_a_full_disk_is_said_and_the_row_is_taken_when_there_is_room(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base = store._base
    (pages,) = base.execute("PRAGMA page_count").fetchone()
    base.execute(f"PRAGMA max_page_count = {pages + 2}")
    taken = 0
    with pytest.raises(OSError, match="full") as refused:  # noqa: PT012  # which one is open
        for taken in range(1, 2000):
            store.add(a_result(taken))
    assert refused.value.errno == errno.ENOSPC
    assert store.ends()[1] == taken - 1
    base.execute("PRAGMA max_page_count = 1000000")
    assert store.add(a_result(taken)) is not None
    assert [r.result for _, r in store.after(0, 3000)] == list(range(1, taken + 1))
