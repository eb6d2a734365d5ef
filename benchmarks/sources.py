"""What the sources cost: from a closed file, or a trigger, to the frame in the station's hands.

    python benchmarks/sources.py

A hot folder, written by another thread; Basler's emulator under software triggers; a film on disk.
Absolute times are this machine's; what else it does at the same time is in them.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from sanflow.imaging import encode_png
from sanflow.runtime.line.frame import Frame
from sanflow.runtime.line.source import EndOfSource, Source
from sanflow.runtime.line.sources import open_source

COUNT = 100


def main() -> None:
    """Print one line per source."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _hot_folder(folder, 640)
        _film(folder / "film.mp4", 640)
    _emulator(1024)


def _hot_folder(folder: Path, side: int) -> None:
    """Milliseconds from the end of a write to the decoded frame, and of the kernel's word alone."""
    data = encode_png(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8))
    closed: list[float] = []

    def write() -> None:
        for number in range(COUNT):
            (folder / f"{number:04d}.png").write_bytes(data)
            closed.append(time.monotonic())
            time.sleep(0.05)

    with open_source(f"folder:{folder}") as source:
        writer = threading.Thread(target=write)
        writer.start()
        frames = [_next(source) for _ in range(COUNT)]
        writer.join()
    heard = [(f.triggered or 0.0) - c for f, c in zip(frames, closed, strict=True)]
    whole = [f.received - c for f, c in zip(frames, closed, strict=True)]
    _say(f"folder, {side}^2 PNG: closed to heard", heard)
    _say(f"folder, {side}^2 PNG: closed to decoded", whole)


def _film(path: Path, side: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(COUNT):
            image = np.random.default_rng(number).integers(90, 160, (side, side, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    with open_source(f"video:{path}") as source:
        times, begun = [], time.monotonic()
        try:
            while source.read(1.0) is not None:
                times.append(time.monotonic() - begun)
                begun = time.monotonic()
        except EndOfSource:
            _say(f"video, {side}^2 H.264: one picture", times)


def _emulator(side: int) -> None:
    os.environ["PYLON_CAMEMU"] = "1"
    uri = f"pylon:?Width={side}&Height={side}&ExposureTime=100"
    times = []
    with open_source(uri, "software") as source:
        for part in range(COUNT):
            begun = time.monotonic()
            source.trigger(part)
            _next(source)
            times.append(time.monotonic() - begun)
    _say(f"pylon emulator, {side}^2: trigger to frame", times)


def _next(source: Source) -> Frame:
    frame = source.read(10.0)
    assert frame is not None, "no frame for 10 s"
    return frame


def _say(what: str, times: list[float]) -> None:
    p50, p95, top = (1e3 * np.percentile(times, p) for p in (50, 95, 100))
    print(f"{what}: p50 {p50:.2f} ms, p95 {p95:.2f} ms, max {top:.2f} ms ({len(times)})")


if __name__ == "__main__":
    main()
