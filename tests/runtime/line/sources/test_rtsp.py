"""A real stream over a real socket: freezes, losses, a slow network, a login that stays secret."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from sanflow.errors import InputError
from sanflow.runtime.line.frame import Frame, missed
from sanflow.runtime.line.source import Source, SourceError
from sanflow.runtime.line.sources import open_source

pytest.importorskip("av")
from . import film
from .rtsp_server import RtspServer

PICTURES = 250


@pytest.fixture(scope="module")
def packets(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return film.packets(PICTURES, tmp_path_factory.mktemp("film"))


@pytest.fixture
def server(packets: list[bytes]) -> Iterator[RtspServer]:
    made = RtspServer(packets)
    yield made
    made.close()


def read(source: Source) -> Frame:
    frame = source.read(1.0)
    assert frame is not None
    return frame


def numbers(source: Source, count: int) -> list[int | None]:
    return [film.number(read(source)) for _ in range(count)]


def test_each_picture_once_and_in_order(server: RtspServer) -> None:
    with open_source(f"rtsp://127.0.0.1:{server.port}/stream?channel=1") as source:
        found = numbers(source, 30)
    first = found[0]
    assert first is not None
    assert first % film.GROUP == 0
    assert found == list(range(first, first + 30))
    assert "/stream?channel=1" in server.requests[0]


def test_a_lost_picture_is_a_gap_and_what_builds_on_it_is_not_believed(
    server: RtspServer,
) -> None:
    with open_source(f"rtsp://127.0.0.1:{server.port}/stream") as source:
        frames = [read(source) for _ in range(8)]
        key = (server.sent // film.GROUP + 2) * film.GROUP
        server.lost = {key + 3, key + 4}
        while film.number(frames[-1]) != key + 12:
            frames.append(read(source))
    seen = [film.number(frame) for frame in frames]
    begin = seen[0]
    assert begin is not None
    believed = [*range(begin, key + 3), *[None] * 5, key + 10, key + 11, key + 12]
    assert seen == believed  # 5 to 9 build on 4
    gaps = [missed(a, b) for a, b in pairwise(frames)]
    assert gaps == [2 * (n == key + 2) for n in seen[:-1]]


def test_a_frozen_stream_is_lost_in_time(server: RtspServer) -> None:
    with open_source(f"rtsp://127.0.0.1:{server.port}/s#timeout=0.7") as source:
        numbers(source, 3)
        server.frozen.set()
        begun = time.monotonic()
        with pytest.raises(SourceError, match=r"nothing came for 0.7 s"):
            numbers(source, 1000)
        assert time.monotonic() - begun < 5


def test_a_camera_that_hangs_up(server: RtspServer) -> None:
    source = open_source(f"rtsp://127.0.0.1:{server.port}/s")
    with source:
        numbers(source, 3)
        server.hang_up()
        with pytest.raises(SourceError):
            numbers(source, 1000)
    with source:  # as often as one likes
        numbers(source, 3)


def test_what_was_held_back_is_not_new(server: RtspServer) -> None:
    with open_source(f"rtsp://127.0.0.1:{server.port}/s") as source:
        numbers(source, 20)
        server.frozen.set()
        time.sleep(1.0)
        server.frozen.clear()
        ages = []
        for _ in range(30):
            received = read(source).received
            ages.append(time.monotonic() - received)
    assert 0.5 < max(ages) < 3
    assert ages[-1] < max(ages) - 0.4


@pytest.mark.parametrize("place", ["u%40x:s3cr%2Ft@", "u@x:s3cr/t@", "#login"])
def test_a_login_is_used_and_never_shown(
    place: str, packets: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "login").write_text("u@x:s3cr/t\n")
    server = RtspServer(packets, "u@x:s3cr/t")
    host = f"127.0.0.1:{server.port}/s"
    uri = f"rtsp://{host}#login={tmp_path}/login" if place == "#login" else f"rtsp://{place}{host}"
    source = open_source(uri)
    try:
        with source:
            numbers(source, 2)
        wrong = open_source(f"rtsp://u:s3cret@{host}")
        with pytest.raises(SourceError, match="401") as raised:
            wrong.open()
    finally:
        server.close()
    assert "s3cr" not in source.name + wrong.name + str(raised.value) + caplog.text
    with pytest.raises(SourceError) as refused:
        open_source(f"rtsp://u:s3cret@127.0.0.1:{server.port}/s#timeout=1").open()
    assert "s3cr" not in str(refused.value)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Give rtsp://HOST/PATH"):
        open_source("rtsp:")
    for uri in ("rtsp:u:s3cret@127.0.0.1/s", "rtsp:/u:s3cret@127.0.0.1/s"):
        with pytest.raises(SourceError, match="Give rtsp://HOST/PATH") as unmarked:
            open_source(uri)
        assert "s3cret" not in str(unmarked.value)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        open_source(f"rtsp://127.0.0.1/s#login={tmp_path}/none").open()
    with pytest.raises(SourceError, match="Connection refused"):
        open_source("rtsp://127.0.0.1:9/s#timeout=1").open()
    with pytest.raises(InputError) as raised:
        open_source("rtsp://u:a#s3cret@127.0.0.1/s#tmeout=1")
    assert "did you mean 'timeout'" in str(raised.value)
    assert "s3cret" not in str(raised.value)
