"""Simulated cameras of Aravis: one in this process, one that sends packets over a network."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from sanflow.runtime.line.frame import Frame, missed
from sanflow.runtime.line.source import Source, SourceError
from sanflow.runtime.line.sources import open_source

gi = pytest.importorskip("gi")
try:
    gi.require_version("Aravis", "0.8")
except ValueError:
    pytest.skip("Aravis is not installed (gir1.2-aravis-0.8)", allow_module_level=True)

FAKE = shutil.which("arv-fake-gv-camera-0.8")
needs_network_camera = pytest.mark.skipif(
    FAKE is None, reason="arv-fake-gv-camera-0.8 (package aravis-tools) is not on PATH"
)


@pytest.fixture
def camera() -> Iterator[subprocess.Popen[bytes]]:
    assert FAKE is not None
    process = subprocess.Popen([FAKE, "-i", "127.0.0.1", "-s", "GV02"], stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    yield process
    process.kill()
    process.wait()


def read(source: Source, count: int) -> list[Frame]:
    frames = [source.read(3.0) for _ in range(count)]
    return [frame for frame in frames if frame is not None]


def test_frames_are_whole_and_counted() -> None:
    with open_source("aravis:Fake_1?Width=64&Height=48&AcquisitionFrameRate=200") as source:
        frames = read(source, 20)
    assert len(frames) == 20
    for before, after in pairwise(frames):
        assert missed(before, after) == 0
        assert after.image is not None
        assert (after.image.shape, after.image.dtype) == ((48, 64), np.uint8)


@pytest.mark.slow  # 150 frames at 25 per second and more: so many until the numbers wrap
def test_numbers_that_wrap_are_no_loss() -> None:
    with open_source("aravis:Fake_1?Width=16&Height=16&AcquisitionFrameRate=200") as source:
        frames = read(source, 150)
    assert sum(missed(a, b) for a, b in pairwise(frames)) == 0
    numbers = [frame.sequence or 0 for frame in frames]
    assert max(numbers) > 65000
    assert min(numbers) == 1


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("aravis:Fake_1?Gian=1", "has no setting Gian"),
        ("aravis:Fake_1?Width=64px", "Width=64px: could not convert"),
        ("aravis:Fake_1?PixelFormat=Mono9", "PixelFormat=Mono9: "),
        ("aravis:nobody", "nobody"),
    ],
)
def test_what_is_wrong_is_said(uri: str, text: str) -> None:
    source = open_source(uri)
    with pytest.raises(SourceError) as raised:
        source.open()
    source.close()
    assert text in str(raised.value) or "no camera was found" in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_network_camera
def test_real_packets_and_one_frame_for_each_trigger(camera: subprocess.Popen[bytes]) -> None:
    with open_source("aravis:127.0.0.1", "software") as source:
        assert source.read(0.2) is None
        for part in range(5, 15):
            source.trigger(part)
            frame = source.read(3.0)
            assert frame is not None
            assert (frame.status, frame.part) == ("ok", part)
            assert frame.skips_zero
    with open_source("aravis:Aravis-Fake-GV02") as source:
        frames = read(source, 10)
    assert [frame.status for frame in frames] == ["ok"] * 10


@pytest.mark.slow  # a camera is given up only after its heartbeat failed for seconds
@needs_network_camera
def test_a_camera_that_is_switched_off_is_lost(camera: subprocess.Popen[bytes]) -> None:
    with open_source("aravis:127.0.0.1") as source:
        assert read(source, 3)
        camera.kill()
        with pytest.raises(SourceError, match="no longer answers"):
            read(source, 20)
    with pytest.raises(SourceError, match=r"found"):
        open_source("aravis:127.0.0.1").open()
