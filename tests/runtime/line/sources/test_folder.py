"""A real folder, written the ways people write: each save is one part, and none is read by half."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow import imaging
from sanflow.errors import ConfigError
from sanflow.imaging import encode_png
from sanflow.runtime.line.frame import Frame
from sanflow.runtime.line.source import EndOfSource, Source, SourceError
from sanflow.runtime.line.sources import open_source

pytest.importorskip("watchdog")


def png(value: int, side: int = 8) -> bytes:
    return encode_png(np.full((side, side, 3), value, np.uint8))


def value(frame: Frame | None) -> int:
    assert frame is not None
    assert frame.image is not None, frame.detail
    return int(frame.image[0, 0, 0])


def drain(source: Source, wait: float = 0.4) -> list[Frame]:
    found = []
    while (frame := source.read(wait)) is not None:
        found.append(frame)
    return found


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def hot(inbox: Path) -> Iterator[Source]:
    with open_source(f"folder:{inbox}") as source:
        yield source


def test_a_folder_is_read_by_name_and_then_ends(inbox: Path) -> None:
    for number in (3, 1, 2):
        (inbox / f"{number}.PNG").write_bytes(png(number))
    (inbox / "notes.txt").write_text("no picture")
    (inbox / ".hidden.png").write_bytes(png(9))
    with open_source(f"folder:{inbox}?watch=no") as source:
        frames = [source.read(1.0) for _ in range(3)]
        with pytest.raises(EndOfSource):
            source.read(1.0)
    assert [value(f) for f in frames] == [1, 2, 3]
    assert [f.name for f in frames if f] == ["1.PNG", "2.PNG", "3.PNG"]
    assert not source.live


def test_a_picture_counts_from_the_moment_it_was_closed(hot: Source, inbox: Path) -> None:
    data = png(7, 256)
    with open(inbox / "slow.png", "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        assert hot.read(0.3) is None  # half of it is there
        file.write(data[len(data) // 2 :])
        closed = time.monotonic()
    frame = hot.read(2.0)
    assert value(frame) == 7
    assert frame is not None
    assert frame.triggered is not None
    assert frame.triggered >= closed - 0.05
    assert hot.read(0.2) is None


def test_every_way_of_saving_is_one_part(hot: Source, inbox: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "staging.png"
    elsewhere.write_bytes(png(1))
    os.rename(elsewhere, inbox / "moved-in.png")
    (inbox / "2.tmp").write_bytes(png(2))
    os.rename(inbox / "2.tmp", inbox / "renamed.png")
    (inbox / "tmp-3.png").write_bytes(png(3))  # a picture under both names
    os.rename(inbox / "tmp-3.png", inbox / "3.png")
    elsewhere.write_bytes(png(4))
    shutil.copy2(elsewhere, inbox / "copied.png")
    with open(inbox / "twice.png", "wb") as file:
        file.write(png(5))
    os.close(os.open(inbox / "twice.png", os.O_RDWR))  # closed again, nothing written
    assert [value(frame) for frame in drain(hot)] == [1, 2, 3, 4, 5]


def test_renamed_after_it_was_read_is_the_same_part(hot: Source, inbox: Path) -> None:
    (inbox / "tmp.png").write_bytes(png(1))
    assert value(hot.read(2.0)) == 1
    os.rename(inbox / "tmp.png", inbox / "1.png")
    assert hot.read(0.4) is None


def test_renamed_before_it_was_read_is_the_same_part(
    hot: Source, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has told that the file was closed, and not yet that it was renamed."""
    read = imaging.read

    def just_too_late(path: Path) -> NDArray[np.uint8]:
        if path.name.startswith("tmp"):
            os.rename(path, inbox / path.name.removeprefix("tmp-"))
        return read(path)

    monkeypatch.setattr(imaging, "read", just_too_late)
    (inbox / "tmp-1.png").write_bytes(png(1))
    (inbox / "tmp-2.png").write_bytes(png(2))
    frames = drain(hot)
    assert [value(frame) for frame in frames] == [1, 2]
    assert [frame.name for frame in frames] == ["1.png", "2.png"]


def test_one_name_saved_again_and_again(hot: Source, inbox: Path) -> None:
    for number in range(3):
        (inbox / "latest.png").write_bytes(png(number))
        assert value(hot.read(2.0)) == number
    for number in range(3):  # faster than it is read
        (inbox / "latest.png").write_bytes(png(number))
        time.sleep(0.02)
    frames = drain(hot)
    assert [frame.status for frame in frames] == ["no_image", "no_image", "ok"]
    assert "saved over" in frames[0].detail


def test_what_cannot_be_read_is_a_part_too(hot: Source, inbox: Path) -> None:
    (inbox / "half.png").write_bytes(png(1, 64)[:-20])
    (inbox / "empty.png").touch()
    (inbox / "gone.png").write_bytes(png(1))
    (inbox / "gone.png").unlink()
    frames = drain(hot)
    assert [frame.status for frame in frames] == ["incomplete", "incomplete", "no_image"]
    assert "half.png: truncated" in frames[0].detail


def test_what_was_there_is_judged_only_if_done_says_what_was_not(inbox: Path) -> None:
    for number in (2, 1):
        (inbox / f"{number}.png").write_bytes(png(number))
        os.utime(inbox / f"{number}.png", (number, number))
    with open_source(f"folder:{inbox}") as source:
        assert drain(source) == []
    done = inbox / "done"
    with open_source(f"folder:{inbox}?done={done}") as source:
        (inbox / "0.png").write_bytes(png(0))
        assert [value(frame) for frame in drain(source)] == [1, 2, 0]
    (inbox / "0.png").write_bytes(png(3))
    with open_source(f"folder:{inbox}?done={done}") as source:
        assert [value(frame) for frame in drain(source)] == [3]
    assert len(list(done.iterdir())) == 4


def test_polling_waits_until_nothing_changes(inbox: Path) -> None:
    (inbox / "old.png").write_bytes(png(9))
    data = png(7, 64)
    uri = f"folder:{inbox}?watch=poll&interval=0.02&stable=0.2"
    with open_source(uri) as source, open(inbox / "new.png", "wb", buffering=0) as file:
        for at in range(0, len(data), 50):
            file.write(data[at : at + 50])
            assert source.read(0.05) is None
        assert value(source.read(3.0)) == 7
        assert source.read(0.3) is None
        cv2.imwrite(str(inbox / "new.png"), np.zeros((8, 8), np.uint8))
        assert value(source.read(3.0)) == 0


def test_many_at_once_are_all_there(hot: Source, inbox: Path) -> None:
    def write(start: int) -> None:
        for number in range(start, start + 40):
            (inbox / f"{number:03d}.png").write_bytes(png(number))

    writers = [threading.Thread(target=write, args=(start,)) for start in (0, 40, 80)]
    for writer in writers:
        writer.start()
    found = [value(hot.read(5.0)) for _ in range(120)]
    for writer in writers:
        writer.join()
    assert sorted(found) == list(range(120))
    assert hot.read(0.2) is None


@pytest.mark.parametrize("watch", ["events", "poll"])
def test_a_folder_that_goes_away_is_a_lost_source(watch: str, inbox: Path) -> None:
    with open_source(f"folder:{inbox}?watch={watch}") as source:
        inbox.rename(inbox.with_name("away"))
        with pytest.raises(SourceError, match="can no longer be watched: No such file"):
            source.read(0.1)
        inbox.mkdir()
        with pytest.raises(SourceError, match="was replaced"):
            source.read(0.1)
        source.close()
        source.open()
        (inbox / "1.png").write_bytes(png(1))
        assert value(source.read(3.0)) == 1


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("folder:/no/such/place", SourceError, "there is no folder"),
        ("folder:", SourceError, "Give folder:PATH"),
        ("folder:{0}?watch=no", SourceError, "no pictures there"),
        ("folder:{0}?done={0}", SourceError, "must be another folder"),
        ("folder:{0}?wach=no", ConfigError, "did you mean 'watch'"),
        ("folder:{0}?watch=maybe", ConfigError, "'maybe' is not one of"),
        ("folder:{0}?watch=poll&stable=0", ConfigError, "more than 0"),
    ],
)
def test_what_is_wrong_is_said(uri: str, error: type[Exception], text: str, inbox: Path) -> None:
    with pytest.raises(error, match=text):
        open_source(uri.format(inbox)).open()
