"""Rows are whole or not there, in order, from where a reader left off, whatever the disk does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanflow.runtime.line import journal, recorder
from sanflow.runtime.line.journal import Follower, Journal, Position, forget, numbers
from sanflow.runtime.line.output import Picture
from sanflow.runtime.line.recorder import Recorder
from sanflow.runtime.line.ring import Ring

from .test_state import result


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{"result": number, "detail": "größer"} for number in range(first, last + 1)]


def _size(row: dict[str, Any]) -> int:
    return len(json.dumps(row)) + 1


def test_a_reader_goes_on_where_it_left_off(tmp_path: Path) -> None:
    writer = Journal(tmp_path)
    writer.append(rows(1, 5))
    reader = Follower(tmp_path)
    seen = []
    for row in reader.rows():
        seen.append(row["result"])
        if row["result"] == 3:
            break
    writer.append(rows(6, 7))
    later = Follower(tmp_path, reader.position)
    assert seen + [row["result"] for row in later.rows()] == [1, 2, 3, 4, 5, 6, 7]
    assert not list(later.rows())


def test_files_follow_each_other(tmp_path: Path) -> None:
    writer = Journal(tmp_path, rotate=200)
    reader = Follower(tmp_path)
    seen = []
    for number in range(1, 41):
        writer.append(rows(number, number))
        seen += [row["result"] for row in reader.rows()]
    assert len(numbers(tmp_path)) > 3
    assert seen == list(range(1, 41))
    assert [row["result"] for row in Follower(tmp_path).rows()] == seen


def test_a_file_that_grows_and_is_followed_while_it_is_read_to_its_end_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Journal(tmp_path, rotate=_size(rows(1, 1)[0]))
    writer.append(rows(1, 1))
    asked = 0

    def listed(folder: Path) -> list[int]:
        """At the second question one more row ends the file, and another begins the next one."""
        nonlocal asked
        asked += 1
        if asked == 2:
            writer.append(rows(2, 2))
            writer.append(rows(3, 3))
        return numbers(folder)

    monkeypatch.setattr(journal, "numbers", listed)
    reader = Follower(tmp_path)
    seen = [row["result"] for _ in range(3) for row in reader.rows()]
    assert numbers(tmp_path) == [1, 2]
    assert seen == [1, 2, 3]


def test_a_new_life_begins_a_new_file(tmp_path: Path) -> None:
    for first in (1, 3):
        writer = Journal(tmp_path)
        writer.append(rows(first, first + 1))
        writer.close()
    assert numbers(tmp_path) == [1, 2]
    assert list(Follower(tmp_path).rows()) == rows(1, 4)


def test_a_torn_line_is_skipped(tmp_path: Path) -> None:
    writer = Journal(tmp_path)
    writer.append(rows(1, 2))
    writer.close()
    with open(tmp_path / "0001.jsonl", "ab") as file:
        file.write(b'{"result": 3, "de')
    writer = Journal(tmp_path)
    writer.append(rows(4, 4))
    reader = Follower(tmp_path)
    assert [row["result"] for row in reader.rows()] == [1, 2, 4]


def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "0001.jsonl"
    path.write_bytes(b'{"result": 1}\n{"resu')
    reader = Follower(tmp_path)
    assert [row["result"] for row in reader.rows()] == [1]
    with open(path, "ab") as file:
        file.write(b'lt": 2}\n')
    assert [row["result"] for row in reader.rows()] == [2]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(0, 60)), max_size=12))
def test_a_full_disk_leaves_nothing_half(plan: list[tuple[int, int | None]]) -> None:
    """Appends that fail after any number of bytes are as if they had not been."""
    import tempfile

    write = os.write
    with tempfile.TemporaryDirectory() as name:
        folder, kept, number = Path(name), [], 0
        writer = Journal(folder, rotate=150)
        for count, limit in plan:
            batch = rows(number + 1, number + count)

            def limited(descriptor: int, data: bytes, limit: int | None = limit) -> int:
                return write(descriptor, data if limit is None else data[:limit])

            with mock.patch.object(journal.os, "write", limited):
                if limit is None or limit >= sum(map(_size, batch)):
                    writer.append(batch)
                    kept += batch
                    number += count
                else:
                    with pytest.raises(OSError, match="No space"):
                        writer.append(batch)
        assert list(Follower(folder).rows()) == kept
        writer.close()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        Journal(tmp_path / "file" / "journal").append(rows(1, 1))


def test_a_full_disk_is_not_told_anew_for_each_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MOST", 3)
    made = Recorder(Journal(tmp_path))
    assert made.problem() == ""
    made.trouble = "No space left on device"
    told = []
    for number in range(1, 8):
        made.put(result("judged", number), None)
        told.append(made.problem())
    waits = "journal: No space left on device; {} results wait for it"
    # Once that some wait, once that some are lost.
    lost = f"{waits.format(3)}; 1 results are lost to the slow outputs"
    assert told == [waits.format(1)] * 3 + [lost] * 4
    assert made.unwritten == 7
    monkeypatch.setattr(recorder, "COUNT", 0.0)
    assert made.problem() == f"{waits.format(3)}; 4 results are lost to the slow outputs"
    made.trouble = ""
    assert made.problem() == "4 results are lost to the slow outputs"


def test_pictures_too_large_for_the_ring_are_said_while_they_are(tmp_path: Path) -> None:
    made = Recorder(Journal(tmp_path / "journal"))
    made.ring = Ring(tmp_path / "ring", 2, 8, 8, create=True)
    made.start()
    told = []
    for number, side in ((1, 8), (2, 9), (3, 8)):
        made.put(result("judged", number), Picture(np.zeros((side, side, 3), np.uint8), None))
        end = time.monotonic() + 5
        while made.waiting and time.monotonic() < end:
            time.sleep(0.001)
        told.append(made.problem())
    made.close()
    assert [bool(words) for words in told] == [False, True, False]
    assert told[1].startswith("without pictures until the next start")


def test_old_files_go_when_nobody_comes_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(json.dumps(rows(1, 1)[0])) + 1
    monkeypatch.setattr(journal, "MOST", 2 * size)
    writer = Journal(tmp_path, rotate=1)
    for number in range(1, 10):
        writer.append(rows(number, number))
    assert numbers(tmp_path) == [7, 8, 9]  # two, and the one that is being written
    reader = Follower(tmp_path, Position(2, 10))
    assert [row["result"] for row in reader.rows()] == [7, 8, 9]
    forget(tmp_path, 9)
    assert numbers(tmp_path) == [9]


def test_many_short_lives_cost_a_reader_nothing_but_the_files_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 101):
        writer = Journal(tmp_path)
        writer.append(rows(number, number))
        writer.close()
    assert [row["result"] for row in Follower(tmp_path).rows()] == list(range(1, 101))
    monkeypatch.setattr(journal, "MOST_FILES", 10)
    Journal(tmp_path).append(rows(101, 101))
    assert numbers(tmp_path) == list(range(92, 102))


def test_a_journal_that_was_removed_begins_anew_for_its_readers(tmp_path: Path) -> None:
    Journal(tmp_path).append(rows(1, 2))
    reader = Follower(tmp_path, Position(57, 12))
    assert [row["result"] for row in reader.rows()] == [1, 2]
    assert reader.position.file == 1
