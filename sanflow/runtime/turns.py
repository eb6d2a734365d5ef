"""Two engines that take turns: whatever else the machine does then slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .ahead import ahead
from .bench import Latency, latency
from .engine import Engine

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Figures:
    call_ms: float
    """Median of one turn."""
    images_per_second: float


class Turns:
    """An engine's calls, in turns, with as many at the same time as it is set up for."""

    def __init__(self, engine: Engine, images: Images) -> None:
        self._engine, self._images = engine, images
        self._times: list[float] = []
        self._seconds = 0.0

    @property
    def count(self) -> int:
        """Calls so far."""
        return len(self._times)

    def warm_up(self) -> float:
        """Two calls that are not counted; seconds of the second."""
        _timed(self._engine, self._images[:1])
        return _timed(self._engine, self._images[:1])[0][0] / 1e3

    def take(self, calls: int) -> Figures:
        """This many calls for each that runs at the same time."""
        total = calls * self._engine.in_flight
        first = self.count
        chosen = [self._images[(first + i) % len(self._images)] for i in range(total)]
        times, seconds = _timed(self._engine, chosen)
        self._times += times
        self._seconds += seconds
        return Figures(statistics.median(times), total * self._engine.batch / seconds)

    @property
    def call_ms(self) -> Latency:
        """All calls so far."""
        return latency(self._times)

    @property
    def images_per_second(self) -> float:
        """Over all turns so far."""
        return round(self.count * self._engine.batch / self._seconds, 2)


def bits(engine: Engine, images: Images) -> list[bytes]:
    """Scores and maps of all images, byte by byte, as many at the same time as will be."""
    together = engine.in_flight
    outputs = ahead(engine.infer, images, together, together)
    return [out.score.tobytes() + out.map.tobytes() for out in outputs]


def _timed(engine: Engine, images: Images) -> tuple[list[float], float]:
    """Milliseconds of each call, and seconds of all of them."""

    def call(batch: NDArray[np.uint8]) -> float:
        begin = time.perf_counter()
        engine.infer(batch)
        return 1e3 * (time.perf_counter() - begin)

    together = engine.in_flight
    begin = time.perf_counter()
    times = ahead(call, images, together, together) if together > 1 else map(call, images)
    return list(times), time.perf_counter() - begin
