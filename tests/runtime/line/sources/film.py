"""Real H.264: pictures that tell which one they are, encoded, in a file or as packets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from sanflow.runtime.line.frame import Frame

SIDE, RATE, GROUP = 64, 25, 10
"""Every tenth picture can be decoded by itself."""


def picture(index: int) -> NDArray[np.uint8]:
    """Its number, 0 to 255, as eight stripes of black or white over noise that moves."""
    image = np.random.default_rng(index).integers(96, 160, (SIDE, SIDE, 3), np.uint8)
    for bit in range(8):
        image[8 * bit : 8 * bit + 8, : SIDE // 2] = 235 if index >> bit & 1 else 16
    return image


def number(frame: Frame) -> int | None:
    """The number of a picture that was decoded; None if there is none."""
    if frame.image is None:
        return None
    rows = (frame.image[8 * bit + 2 : 8 * bit + 6, 4:24] for bit in range(8))
    return sum(int(row.mean() > 127) << bit for bit, row in enumerate(rows))


def _stream(container: Any) -> Any:
    stream = container.add_stream("libx264", rate=RATE)
    stream.width = stream.height = SIDE
    stream.pix_fmt = "yuv420p"
    stream.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "x264-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:repeat-headers=1:slices=1"
        ":sliced-threads=0",
    }
    return stream


def write(path: Path, count: int) -> None:
    """A film of so many pictures."""
    with av.open(str(path), "w") as container:
        stream = _stream(container)
        for index in range(count):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(index), "rgb24")):
                container.mux(packet)
        container.mux(stream.encode())


def packets(count: int, folder: Path) -> list[bytes]:
    """The pictures' packets, with start codes, as a camera's encoder gives them."""
    with av.open(str(folder / "unused.h264"), "w") as container:
        stream = _stream(container)
        found = []
        for index in range(count):
            made = stream.encode(av.VideoFrame.from_ndarray(picture(index), "rgb24"))
            found += [bytes(packet) for packet in made]
        return found + [bytes(packet) for packet in stream.encode()]
