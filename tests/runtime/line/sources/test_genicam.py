"""A real GenTL producer, which simulates three cameras without triggers, through harvesters."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sanflow.runtime.line.frame import missed
from sanflow.runtime.line.source import SourceError
from sanflow.runtime.line.sources import open_source

genicam = pytest.importorskip("genicam")
pytest.importorskip("harvesters")

VIKY = Path(genicam.__file__).with_name("viky.cti")
RED = "VikyTL_DEV_red"


@pytest.mark.parametrize(("form", "shape"), [("RGBa8", (400, 400, 3)), ("Mono8", (400, 400))])
def test_frames_are_whole_and_counted(form: str, shape: tuple[int, ...]) -> None:
    uri = f"genicam:{VIKY}?camera={RED}&PixelFormat={form}&AcquisitionFrameRate=10"
    with open_source(uri) as source:
        frames = [frame for _ in range(20) if (frame := source.read(2.0)) is not None]
    assert len(frames) == 20
    for before, after in pairwise(frames):
        assert missed(before, after) == 0
        assert after.image is not None
        assert (after.image.shape, after.image.dtype) == (shape, np.uint8)
    assert frames[0].camera_time is None  # this producer has no clock


def test_a_picture_stays_ones_own() -> None:
    with open_source(f"genicam:{VIKY}?camera={RED}&AcquisitionFrameRate=100") as source:
        first = source.read(2.0)
        assert first is not None
        assert first.image is not None
        kept = first.image.copy()
        for _ in range(12):
            source.read(2.0)
    assert np.array_equal(first.image, kept)


def test_it_opens_again_and_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENICAM_GENTL64_PATH", str(VIKY.parent))
    source = open_source(f"genicam:?camera={RED}&AcquisitionFrameRate=100")
    for _ in range(2):
        with source:
            assert source.read(2.0) is not None
    slow = open_source(f"genicam:?camera={RED}&AcquisitionFrameRate=1")
    with slow:
        assert slow.read(5.0) is not None
        assert slow.read(1e-4) is None


@pytest.mark.parametrize(
    ("uri", "mode", "text"),
    [
        (f"genicam:{VIKY}", "free", "which of 3 cameras? Name one of: 0 = VikyTL_DEV_red"),
        (f"genicam:{VIKY}?camera=x", "free", "there is no camera 'x'; found: 0 = "),
        (f"genicam:{VIKY}?camera={RED}", "software", 'set [source] trigger = "free"'),
        (f"genicam:{VIKY}?camera={RED}&Gain=1", "free", "has no setting Gain"),
        (f"genicam:{VIKY}?camera={RED}&PixelFormat=Mono9", "free", "PixelFormat=Mono9: "),
        ("genicam:/no/such.cti", "free", "there is no file /no/such.cti"),
        ("genicam:", "free", "no GenTL producer; give genicam:/path/to/producer.cti"),
    ],
)
def test_what_is_wrong_is_said(
    uri: str, mode: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    source = open_source(uri, mode)  # type: ignore[arg-type]
    with pytest.raises(SourceError) as raised:
        source.open()
    source.close()
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_producer(tmp_path: Path) -> None:
    (tmp_path / "x.cti").write_text("no library")
    source = open_source(f"genicam:{tmp_path}/x.cti")
    with pytest.raises(SourceError):
        source.open()
    source.close()
