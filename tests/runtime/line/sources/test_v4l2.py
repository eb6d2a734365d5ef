"""Video4Linux without a camera: what is asked of the driver, and what is said when it is not there.

The driver here is a stand-in: no test has met a real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from sanflow.errors import ConfigError
from sanflow.runtime.line.source import SourceError
from sanflow.runtime.line.sources import open_source


class Driver:
    """A camera of 640 x 480 pixels, whatever is asked."""

    opens: ClassVar[bool] = True
    asked: ClassVar[dict[int, float]] = {}
    frames: ClassVar[int] = 2

    def __init__(self, device: str, api: int) -> None:
        assert api == cv2.CAP_V4L2

    def isOpened(self) -> bool:  # OpenCV's name
        return self.opens

    def set(self, key: int, value: float) -> bool:
        self.asked[key] = value
        return True

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0}[key]

    def read(self) -> tuple[bool, Any]:
        type(self).frames -= 1
        blue = np.zeros((480, 640, 3), np.uint8)
        blue[:, :, 0] = 255
        return (True, blue) if self.frames >= 0 else (False, None)

    def release(self) -> None: ...


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cv2, "VideoCapture", Driver)
    monkeypatch.setattr(Driver, "asked", {})
    monkeypatch.setattr(Driver, "frames", 2)
    (tmp_path / "video0").touch()
    return tmp_path / "video0"


def test_frames_are_rgb_and_a_camera_that_ends_is_lost(device: Path) -> None:
    with open_source(f"v4l2:{device}?width=640&height=480&fps=30&fourcc=MJPG") as source:
        frame = source.read(1.0)
        assert frame is not None
        assert frame.image is not None
        assert frame.image[0, 0].tolist() == [0, 0, 255]
        source.read(1.0)
        with pytest.raises(SourceError, match="still plugged in"):
            source.read(1.0)
    assert Driver.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
    assert Driver.asked[cv2.CAP_PROP_FPS] == 30
    with pytest.raises(SourceError, match="is not open"):
        source.read(1.0)


def test_a_size_that_it_does_not_have_is_refused(device: Path) -> None:
    with pytest.raises(SourceError, match="gives 640 x 480 pixels"):
        open_source(f"v4l2:{device}?width=1280&height=480").open()


def test_a_device_that_does_not_open(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "opens", False)
    with pytest.raises(SourceError, match="group video"):
        open_source(f"v4l2:{device}").open()


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(SourceError, match="there is no /dev/video77; cameras here: "):
        open_source("v4l2:77").open()
    with pytest.raises(SourceError, match="Give v4l2:0"):
        open_source("v4l2:")
    with pytest.raises(ConfigError, match="four letters"):
        open_source("v4l2:0?fourcc=MJPEG")
