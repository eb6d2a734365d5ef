"""The station with real sources and a real engine: every part that they present has its verdict."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sanflow.bundle import Bundle
from sanflow.imaging import encode_png
from sanflow.runtime.line.outputs.store import Store
from sanflow.runtime.line.sources import open_source

from ..station_kit import broken_promises, running, station, until

SIZE = (20, 24, 3)


def png(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, SIZE, np.uint8))


def test_a_folder_is_judged_to_its_end(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(png(number))
    (folder / "05.png").write_bytes(png(5)[:-30])
    uri = f"folder:{folder}?watch=no"
    made, seen = station(bundle, tmp_path / "s", make_source=lambda: open_source(uri))
    tally = made.run()
    assert broken_promises(seen.results) == []
    assert [result.image for result in seen.results] == [f"{n:02d}.png" for n in range(12)]
    assert (tally.parts, tally.reasons.get("incomplete")) == (12, 1)
    assert seen.results[5].reason == "incomplete"
    assert "truncated" in seen.results[5].detail


def test_names_that_are_no_utf8_are_kept_by_the_archive(bundle: Bundle, tmp_path: Path) -> None:
    """As another system writes them, with an umlaut in one byte."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / os.fsdecode(b"schl\xfcssel.png")).write_bytes(png(1))
    (folder / os.fsdecode(b"t\xfcr.png")).write_bytes(b"no picture")
    uri = f"folder:{folder}?watch=no"
    made, seen = station(bundle, tmp_path / "s", make_source=lambda: open_source(uri))
    made.run()
    assert [result.image for result in seen.results] == [r"schl\udcfcssel.png", r"t\udcfcr.png"]
    assert r"t\udcfcr.png" in seen.results[1].detail
    store = Store(tmp_path / "archive")
    ids = [store.add(result) for result in seen.results]
    assert store.after(0, 5) == list(zip(ids, seen.results, strict=True))
    store.close()


def test_a_hot_folder(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("watchdog")
    folder = tmp_path / "in"
    folder.mkdir()
    made, seen = station(
        bundle, tmp_path / "s", make_source=lambda: open_source(f"folder:{folder}"), deadline="5s"
    )
    with running(made):
        until(lambda: any(s.state == "Ready" for s in seen.states))
        for number in range(10):
            (folder / f"{number}.png").write_bytes(png(number))
        until(lambda: len(seen.results) == 10)
    assert broken_promises(seen.results) == []
    assert [result.image for result in seen.results] == [f"{n}.png" for n in range(10)]
    assert {result.reason for result in seen.results} <= {"", "score"}


def test_a_camera_that_a_plc_triggers(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pypylon")
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    uri = "pylon:?Width=64&Height=48&ExposureTime=100"
    made, seen = station(
        bundle,
        tmp_path / "s",
        make_source=lambda: open_source(uri, "software"),
        source__trigger="software",
        deadline="5s",
    )
    parts = [3, 5, 7, 11, 12]
    with running(made):
        until(lambda: any(s.state == "Ready" for s in seen.states))
        for part in parts:
            made.trigger(part)
        until(lambda: len(seen.results) == len(parts))
    assert broken_promises(seen.results) == []
    assert [result.part for result in seen.results] == parts
    assert {result.reason for result in seen.results} <= {"", "score"}


def test_a_stream_that_is_lost_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from . import film
    from .rtsp_server import RtspServer

    server = RtspServer(film.packets(100, tmp_path), "user:s3cret")
    uri = f"rtsp://user:s3cret@127.0.0.1:{server.port}/s#timeout=1"
    made, seen = station(
        bundle, tmp_path / "s", make_source=lambda: open_source(uri), deadline="5s"
    )
    try:
        with running(made):
            until(lambda: len(seen.results) > 5)
            server.hang_up()
            until(lambda: any(s.fault for s in seen.states))
            before = len(seen.results)
            until(lambda: len(seen.results) > before + 5 and not seen.states[-1].fault)
    finally:
        server.close()
    assert broken_promises(seen.results) == []
    assert "s3cret" not in repr(seen.results) + repr(seen.states)
    assert "s3cret" not in "".join(p.read_text() for p in tmp_path.glob("s/journal/*.jsonl"))
