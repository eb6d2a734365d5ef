"""A camera of Video4Linux: USB webcams, frame grabbers, cameras on a board. Linux only.

    v4l2:0                                      /dev/video0
    v4l2:/dev/v4l/by-id/usb-x?width=1280&height=720&fps=30&fourcc=MJPG

These cameras have no triggers, no frame numbers and no status: what the driver loses is not seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import cv2

from ..frame import Frame
from ..source import Source, SourceError
from .uri import Address, options, parse


@dataclass(frozen=True)
class V4l2:
    """What a v4l2: URI can ask for; 0 and empty leave it to the camera."""

    width: int = 0
    height: int = 0
    """Pixels."""
    fps: float = 0.0
    """Frames per second."""
    fourcc: str = ""
    """The pixel format, for example YUYV or MJPG."""

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.fps) < 0:
            raise ValueError("width, height and fps must not be negative")
        if self.fourcc and len(self.fourcc) != 4:
            raise ValueError(f"fourcc={self.fourcc!r}; expected four letters, for example YUYV")


class V4l2Source(Source):
    """See the module."""

    def __init__(self, address: Address, asked: V4l2) -> None:
        super().__init__(address.name)
        place = address.place
        self._device = f"/dev/video{place}" if place.isdigit() else place
        self._asked = asked
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> None:
        """Open the device and ask for what is wanted; a size it does not have is refused."""
        if not Path(self._device).exists():
            there = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"{self.name}: there is no {self._device}; cameras here: {there}")
        capture = cv2.VideoCapture(self._device, cv2.CAP_V4L2)
        self._capture = capture
        if not capture.isOpened():
            raise SourceError(
                f"{self.name}: {self._device} cannot be opened as a camera; another program may "
                "use it, or this user is not in the group video"
            )
        asked = self._asked
        if asked.fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*asked.fourcc))
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, asked.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, asked.height),
            (cv2.CAP_PROP_FPS, asked.fps),
        ):
            if value:
                capture.set(key, value)
        # Of the frames that wait in the driver only the newest shows the part in front of it.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        size = [
            round(capture.get(k)) for k in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        ]
        if any(a and a != g for a, g in zip((asked.width, asked.height), size, strict=True)):
            raise SourceError(
                f"{self.name}: the camera gives {size[0]} x {size[1]} pixels (width x height); ask "
                "for these, or for a format that it has (v4l2-ctl --list-formats-ext)"
            )

    def read(self, timeout: float) -> Frame | None:
        """The next frame, when the driver has it."""
        if self._capture is None:
            raise SourceError(f"{self.name}: is not open")
        done, bgr = self._capture.read()
        received = time.monotonic()
        if not done or bgr is None:
            raise SourceError(f"{self.name}: no frame came; is the camera still plugged in?")
        return Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), "ok", received)

    def close(self) -> None:
        """Let go of the device."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


def v4l2_source(uri: str) -> V4l2Source:
    """The source that a v4l2: URI describes; ConfigError says what is wrong with it."""
    address = parse(uri)
    if not address.place:
        raise SourceError("v4l2: which camera? Give v4l2:0 for /dev/video0")
    return V4l2Source(address, options(V4l2, address))
