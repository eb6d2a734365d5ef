"""A camera without a camera: the same frames on every run, and faults where they are asked for.

    sim:noise?size=480x640&rate=20&count=1000&drop=50&disconnect=400

Every fault takes the number of frames from one occurrence to the next: `drop=50` loses each 50th.
`rate` is frames per second; without it the source is not live and is read as fast as the engine
goes. Each frame is noise of its own brightness, drawn from `seed` and the frame's number; with
`images=FOLDER` the pictures there, in turns, so that a line can be tried on real parts.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import imaging
from ..frame import Frame
from ..source import EndOfSource, Source, SourceError
from .uri import options, parse

FREEZE = 20
"""Frames for which a frozen camera shows the same."""


@dataclass(frozen=True)
class Sim:
    """What a sim: URI can ask for. Faults: frames from one to the next, 0 is never."""

    size: str = "256x256"
    """HEIGHTxWIDTH in pixels."""
    rate: float = 0.0
    """Frames per second; 0 is not live."""
    count: int = 0
    """Frames after which it ends; 0 is never."""
    seed: int = 0
    images: str = ""
    """A folder whose pictures are shown in turns."""
    drop: int = 0
    """Lost on the way, seen only by a gap in the numbers."""
    corrupt: int = 0
    """Delivered as incomplete."""
    blank: int = 0
    """Delivered with a picture of a wrong type."""
    repeat: int = 0
    """The frame before is delivered again, under its number."""
    freeze: int = 0
    """From this frame on the picture stays the same for FREEZE frames, under new numbers."""
    late: int = 0
    """Delivered `delay` seconds after its trigger."""
    delay: float = 1.0
    disconnect: int = 0
    """The camera is lost; it comes back after `away` seconds."""
    away: float = 0.1
    hang: int = 0
    """A call does not return for `stuck` seconds."""
    stuck: float = 10.0
    echo: bool = True
    """Whether frames carry the part id of their software trigger."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", self.size):
            raise ValueError(f"size={self.size!r}; expected HEIGHTxWIDTH, for example 480x640")
        if min(v for v in vars(self).values() if isinstance(v, (int, float))) < 0:
            raise ValueError("numbers must not be negative")


@dataclass
class Camera:
    """What goes on while nobody is connected: it can be shared by sources that follow each other.

    Otherwise a source that was left behind in a hung call is followed by one that begins anew.
    """

    exposed: int = 0
    """Frames since it was switched on."""
    gone_until: float = 0.0
    handed_over: int = 0
    """Frames that somebody was given."""


class SimSource(Source):
    """See the module."""

    can_trigger = True

    def __init__(self, name: str, options: Sim, camera: Camera | None = None) -> None:
        super().__init__(name)
        self._options = options
        self._camera = camera or Camera()
        self.live = options.rate > 0
        self._next = 0.0
        self._awaits = False
        """Whether it was ever triggered: then it shows nothing by itself any more."""
        self._triggered: list[tuple[int, float]] = []
        self._pictures: list[NDArray[np.uint8]] = []
        self._open = False

    def open(self) -> None:
        """Connect, unless it is away."""
        left = self._camera.gone_until - time.monotonic()
        if left > 0:
            raise SourceError(f"{self.name}: the camera is away for another {left:.1f} s")
        if self._options.images and not self._pictures:
            self._pictures = _pictures(self.name, Path(self._options.images))
        self._next = time.monotonic()
        self._open = True

    def read(self, timeout: float) -> Frame | None:
        """The next frame, with the fault that is due."""
        if not self._open:
            raise SourceError(f"{self.name}: is not open")
        options = self._options
        if options.count and self._camera.exposed >= options.count:
            raise EndOfSource
        part = triggered = None
        if self._triggered:
            part, triggered = self._triggered.pop(0)
        elif self._awaits:
            time.sleep(timeout)
            return None
        elif self.live and not self._pace(timeout):
            return None
        self._camera.exposed += 1
        index = self._camera.exposed
        self._maybe_lose(index)
        if _due(options.hang, index):
            time.sleep(options.stuck)
        if _due(options.drop, index):
            return None
        if _due(options.late, index):
            triggered = time.monotonic() - options.delay if triggered is None else triggered
        self._camera.handed_over += 1
        return self._frame(index, part if options.echo else None, triggered)

    def trigger(self, part: int) -> None:
        """One exposure of this part."""
        self._awaits = True
        self._triggered.append((part, time.monotonic()))

    def close(self) -> None:
        """Disconnect."""
        self._open = False
        self._triggered.clear()

    def _pace(self, timeout: float) -> bool:
        """Sleep until the next frame is due; False if that is later than `timeout` from now."""
        left = self._next - time.monotonic()
        if left > timeout:
            time.sleep(timeout)
            return False
        if left > 0:
            time.sleep(left)
        self._next += 1 / self._options.rate
        return True

    def _maybe_lose(self, index: int) -> None:
        if _due(self._options.disconnect, index):
            self._camera.gone_until = time.monotonic() + self._options.away
            raise SourceError(f"{self.name}: the connection to the camera was lost")

    def _frame(self, index: int, part: int | None, triggered: float | None) -> Frame:
        options, received = self._options, time.monotonic()
        common: dict[str, Any] = {"triggered": triggered, "part": part, "sequence": index}
        if _due(options.corrupt, index):
            detail = "packets are missing"
            return Frame(None, "incomplete", received, detail=detail, **common)
        if _due(options.repeat, index):
            common["sequence"] = index - 1
        shown = index
        if options.freeze and index >= options.freeze:
            shown -= min(index % options.freeze, FREEZE - 1)
        if self._pictures:
            image: NDArray[Any] = self._pictures[shown % len(self._pictures)]
        else:
            image = picture(options, shown)
        if _due(options.blank, index):
            image = image.astype(np.float32)
        return Frame(image, "ok", received, name=f"sim-{index:07d}", **common)


def picture(options: Sim, index: int) -> NDArray[np.uint8]:
    """The noise of one frame, uint8 (H, W, 3): the same for the same seed and number."""
    height, width = _size(options.size)
    rng = np.random.default_rng((options.seed, index))
    # One random block, rolled: drawing every pixel would cost more than judging the part.
    block = rng.integers(0, 256, (64, 64, 3), np.uint8)
    scale = np.uint16(rng.integers(40, 257))
    tiles = (height + 63) // 64, (width + 63) // 64, 1
    return np.tile((block * scale >> 8).astype(np.uint8), tiles)[:height, :width]


def sim_source(uri: str, camera: Camera | None = None) -> SimSource:
    """The source that a sim: URI describes; ConfigError says what is wrong with it."""
    address = parse(uri)
    return SimSource(address.name, options(Sim, address), camera)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _pictures(name: str, folder: Path) -> list[NDArray[np.uint8]]:
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in imaging.IMAGE_SUFFIXES]
    if not paths:
        raise SourceError(f"{name}: no pictures in {folder}")
    return [imaging.read(path) for path in paths]


def _due(every: int, index: int) -> bool:
    return every > 0 and index % every == 0
