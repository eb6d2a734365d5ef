"""A real H.264 file: every picture, exactly; and no picture that builds on a damaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sanflow.errors import ConfigError
from sanflow.runtime.line.frame import Frame
from sanflow.runtime.line.source import EndOfSource, SourceError
from sanflow.runtime.line.sources import open_source

av = pytest.importorskip("av")
from . import film  # noqa: E402  # needs av


def frames_of(uri: str) -> list[Frame]:
    found: list[Frame] = []
    with open_source(uri) as source:
        while True:
            try:
                frame = source.read(1.0)
            except EndOfSource:
                return found
            assert frame is not None
            found.append(frame)


def numbers(frames: list[Frame]) -> list[int | None]:
    return [film.number(frame) for frame in frames]


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
def test_every_picture_in_order(kind: str, tmp_path: Path) -> None:
    film.write(tmp_path / f"film.{kind}", 45)
    frames = frames_of(f"video:{tmp_path}/film.{kind}")
    assert numbers(frames) == list(range(45))
    assert [frame.sequence for frame in frames] == list(range(45))
    times = [frame.camera_time or 0.0 for frame in frames]
    assert times[44] - times[0] == pytest.approx(44 / film.RATE, abs=0.01)


def test_every_fifth(tmp_path: Path) -> None:
    film.write(tmp_path / "film.mp4", 23)
    frames = frames_of(f"video:{tmp_path}/film.mp4?every=5")
    assert numbers(frames) == [0, 5, 10, 15, 20]
    assert [frame.sequence for frame in frames] == [0, 1, 2, 3, 4]


def test_what_builds_on_a_damaged_picture_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film.write(path, 40)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux() if p.size]
    data = bytearray(path.read_bytes())
    start, size = places[13]
    data[start + size // 3 : start + size] = bytes(size - size // 3)
    path.write_bytes(data)
    frames = frames_of(f"video:{path}")
    assert len(frames) == 40
    assert numbers(frames) == [*range(13), *[None] * 7, *range(20, 40)]
    assert {frame.status for frame in frames[13:20]} == {"incomplete"}
    assert "damaged" in frames[15].detail


def test_a_file_that_was_cut_off_gives_nothing_false(tmp_path: Path) -> None:
    film.write(tmp_path / "film.mkv", 40)
    data = (tmp_path / "film.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    found = [n for n in numbers(frames_of(f"video:{tmp_path}/cut.mkv")) if n is not None]
    assert found == list(range(len(found)))
    assert 20 <= len(found) < 30


def test_whatever_the_damage_it_ends_and_no_picture_is_anothers(tmp_path: Path) -> None:
    film.write(tmp_path / "good.mp4", 40)
    good = (tmp_path / "good.mp4").read_bytes()
    for seed in range(25):
        rng = np.random.default_rng(seed)
        data = bytearray(good)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at : at + 200] = rng.bytes(min(200, len(data) - int(at)))
        (tmp_path / "bad.mp4").write_bytes(data)
        try:
            frames = frames_of(f"video:{tmp_path}/bad.mp4")
        except SourceError:
            continue
        for frame in frames:
            index = film.number(frame)
            if index is not None and frame.image is not None:
                off = np.abs(frame.image.astype(int) - film.picture(index)).mean()
                assert off < 40, f"seed {seed}: {frame.sequence} is not picture {index}"


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("video:", SourceError, "Give video:PATH"),
        ("video:{0}/none.mp4", SourceError, "No such file"),
        ("video:{0}/text.mp4", SourceError, "Invalid data"),
        ("video:{0}/text.mp4?every=0", ConfigError, "expected at least 1"),
    ],
)
def test_what_is_wrong_is_said(uri: str, error: type[Exception], text: str, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film" * 100)
    with pytest.raises(error, match=text):
        open_source(uri.format(tmp_path)).open()
