"""Basler's own emulator: pictures through its driver, triggers, failures, wrong settings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sanflow.errors import ConfigError
from sanflow.imaging import write_png
from sanflow.runtime.line.frame import missed
from sanflow.runtime.line.source import Source, SourceError
from sanflow.runtime.line.sources import open_source

pytest.importorskip("pypylon")

SMALL = "Width=64&Height=48&ExposureTime=100"


@pytest.fixture(autouse=True)
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLON_CAMEMU", "2")


@pytest.fixture
def triggered() -> Iterator[Source]:
    with open_source(f"pylon:0815-0001?{SMALL}", "software") as source:
        yield source


def test_free_run_counts_its_frames() -> None:
    with open_source(f"pylon:0815-0000?{SMALL}&AcquisitionFrameRate=200") as source:
        frames = [source.read(2.0) for _ in range(20)]
    kept = [frame for frame in frames if frame is not None and frame.image is not None]
    assert len(kept) == 20
    assert kept[0].image is not None
    assert kept[0].image.shape == (48, 64)
    assert kept[0].image.dtype == np.uint8
    assert [missed(a, b) for a, b in pairwise(kept)] == [0] * 19


def test_one_frame_for_each_trigger_and_none_without(triggered: Source) -> None:
    assert triggered.read(0.2) is None
    for part in (7, 9, 8):
        begun = time.monotonic()
        triggered.trigger(part)
        frame = triggered.read(2.0)
        assert frame is not None
        assert (frame.status, frame.part) == ("ok", part)
        assert frame.triggered is not None
        assert begun <= frame.triggered <= frame.received
    assert triggered.read(0.2) is None


def test_pictures_go_through_the_driver_unchanged(tmp_path: Path) -> None:
    shown = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    write_png(tmp_path / "part.png", shown)
    uri = (
        f"pylon:0815-0001?{SMALL}&TestImageSelector=Off&PixelFormat=RGB8Packed"
        f"&ImageFilename={tmp_path}/part.png&ImageFileMode=On"
    )
    with open_source(uri, "software") as source:
        source.trigger(1)
        frame = source.read(2.0)
    assert frame is not None
    assert frame.image is not None
    assert np.array_equal(frame.image, shown)


def test_a_buffer_that_failed_is_incomplete(triggered: Source) -> None:
    triggered._set("ForceFailedBufferCount", "1")  # type: ignore[attr-defined]
    triggered._set("ForceFailedBuffer", "1")  # type: ignore[attr-defined]
    triggered.trigger(1)
    frame = triggered.read(2.0)
    assert frame is not None
    assert (frame.status, frame.image, frame.part) == ("incomplete", None, 1)
    assert "incomplete" in frame.detail
    triggered.trigger(2)
    frame = triggered.read(2.0)
    assert frame is not None
    assert (frame.status, frame.part) == ("ok", 2)


@pytest.mark.parametrize("form", ["Mono12", "BayerRG8", "BayerGB12", "BGR8Packed", "BGRA8Packed"])
def test_formats(form: str) -> None:
    with open_source(f"pylon:0815-0000?{SMALL}&PixelFormat={form}") as source:
        frame = source.read(2.0)
    assert frame is not None
    assert frame.image is not None
    assert frame.image.shape == ((48, 64) if form.startswith("Mono") else (48, 64, 3))
    assert frame.image.dtype == (np.uint16 if form.endswith("12") else np.uint8)


def test_it_opens_again_after_it_was_closed() -> None:
    source = open_source(f"pylon:0815-0000?{SMALL}")
    for _ in range(2):
        with source:
            assert source.read(2.0) is not None
        source.close()
    with pytest.raises(SourceError, match="was lost"):
        source.read(0.1)


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("pylon:", SourceError, "which of 2 cameras? Name one of: 0815-0000 ="),
        ("pylon:4711", SourceError, "there is no camera '4711'; found: 0815-0000 ="),
        ("pylon:0815-0000?Exposure=5", SourceError, "has no setting Exposure"),
        ("pylon:0815-0000?ExposureTime=fast", SourceError, "ExposureTime=fast: could not convert"),
        ("pylon:0815-0000?Width=64px", SourceError, "Width=64px: could not convert"),
        ("pylon:0815-0000?PixelFormat=Mono9", SourceError, "PixelFormat=Mono9: Feature"),
        ("pylon:0815-0000?settings=/no.pfs", SourceError, "there is no file /no.pfs"),
        ("pylon:0815-0000?exposure=5", ConfigError, "unknown field 'exposure'"),
    ],
)
def test_what_is_wrong_is_said(uri: str, error: type[Exception], text: str) -> None:
    source = None
    with pytest.raises(error) as raised:  # noqa: PT012  # the URI's faults come first
        source = open_source(uri)
        source.open()
    if source is not None:
        source.close()
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)
    assert ".cpp" not in str(raised.value)


def test_no_camera_at_all() -> None:
    script = (
        "from sanflow.runtime.line.sources import open_source\n"
        "try: open_source('pylon:').open()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYLON_CAMEMU"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("SourceError pylon:: no camera was found; check its power")
