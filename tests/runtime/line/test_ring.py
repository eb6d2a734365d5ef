"""Pictures and the state over shared memory: the right ones or none, never half of two."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sanflow.runtime.line.output import Picture, StationState
from sanflow.runtime.line.ring import LONGEST, Board, Ring, places

SIZE = 40, 30
RUN = 7


def picture(number: int, size: tuple[int, int] = SIZE) -> Picture:
    image = np.full((*size, 3), number % 256, np.uint8)
    return Picture(image, np.full(size, number, np.float32))


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "ring", 4, *SIZE, create=True)


def test_the_latest_pictures_are_there_and_older_ones_are_gone(ring: Ring) -> None:
    for number in range(1, 11):
        ring.write(number, RUN, picture(number))
    other = Ring(ring.path, 4, *SIZE, create=False)
    for number in range(7, 11):
        found = other.read(number, RUN)
        assert found is not None
        assert found.map is not None
        assert (found.image == number).all()
        assert (found.map == number).all()
        assert other.read(number, RUN + 1) is None
    assert [other.read(number, RUN) for number in (1, 6, 11)] == [None, None, None]


def test_a_picture_without_a_map_and_one_that_is_too_large(ring: Ring) -> None:
    ring.write(1, RUN, Picture(picture(1).image, None))
    found = ring.read(1, RUN)
    assert found is not None
    assert found.map is None
    assert not ring.write(2, RUN, picture(2, (SIZE[0] * 2, SIZE[1])))
    assert ring.read(2, RUN) is None
    assert ring.write(3, RUN, picture(3, (20, 50)))
    found = ring.read(3, RUN)
    assert found is not None
    assert found.image.shape == (20, 50, 3)


def test_a_reader_never_sees_a_picture_that_is_being_written(ring: Ring) -> None:
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 4  # always the same slot
            ring.write(number, RUN, picture(number))

    thread = threading.Thread(target=write)
    thread.start()
    mixed = seen = 0
    other = Ring(ring.path, 4, *SIZE, create=False)
    until = time.monotonic() + 20
    reads = 0
    while reads < 3000 or (seen <= 10 and time.monotonic() < until):
        reads += 1
        number = int.from_bytes(other._map[0:8], "little")
        found = other.read(number, RUN) if number else None
        if found is not None and found.map is not None:
            seen += 1
            mixed += not ((found.image == number % 256).all() and (found.map == number).all())
    over.set()
    thread.join()
    assert seen > 10
    assert mixed == 0


def test_the_state_arrives(tmp_path: Path) -> None:
    board = Board(tmp_path / "state", create=True)
    other = Board(board.path, create=False)
    assert other.state() is None
    state = StationState("Error", "größer " * 20, 12, "ab", 3, "disk")
    board.tell(state)
    assert other.state() == state
    board.close(remove=True)
    assert not board.path.exists()


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f600", "\udcff", '"'])
def test_texts_of_any_length_arrive_cut(tmp_path: Path, letter: str) -> None:
    """An engine's error may be pages long; the fault is what counts."""
    board = Board(tmp_path / "state", create=True)
    board.tell(StationState("Running", "", 1, "ab", 0))
    text = letter * 10**5
    board.tell(StationState("Error", text, 12, "ab", 3, text))
    found = Board(board.path, create=False).state()
    assert found is not None
    assert (found.state, found.heartbeat) == ("Error", 12)
    cut = text[:LONGEST].encode("utf-8", "replace").decode()
    assert (found.fault, found.warning) == (cut, cut)


def test_the_file_is_removed_by_its_writer_only(ring: Ring) -> None:
    other = Ring(ring.path, 4, *SIZE, create=False)
    other.close()
    assert ring.path.exists()
    ring.close(remove=True)
    assert not ring.path.exists()


def test_two_stations_have_two_places(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    first, second = ([*places(f, "ring"), *places(f, "state")] for f in folders)
    assert not set(first) & set(second)
    assert len(set(first)) == len(first)
    assert first == [*places(folders[0], "ring"), *places(folders[0], "state")]


def test_no_room_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large"):
        Ring(tmp_path / "ring", 10**6, 4096, 4096, create=True)
    assert not (tmp_path / "ring").exists()
