"""How fast this bundle judges on this machine: latency, throughput, cold start, memory.

The bundle's golden images are judged one after the other, as on a line. A percentile is given only
if at least one run lies beyond it: p99 needs 100 runs, p99.9 needs 1000. Cold start and memory are
those of fresh child processes, which hold nothing but the runtime.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__, imaging
from ..bundle import Bundle
from ..errors import EngineError, InputError
from .ahead import ahead
from .detector import Detector
from .engine import Engine
from .machine import Machine, child_command, child_environment, describe, load_average

CHILD_SECONDS = 600
"""A child that is not done by then is stopped."""

T = TypeVar("T")


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call; a percentile is None where there were too few runs for it."""

    runs: int
    mean: float
    min: float
    p50: float
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float


@dataclass(frozen=True)
class ColdStart:
    """Seconds from starting a process to its first verdict; the medians of several starts."""

    starts: int
    import_s: float
    """Starting Python and importing the runtime."""
    open_s: float
    """Verifying the bundle and loading the graph into the engine."""
    first_s: float
    """The first verdict, decoding included."""
    total_s: float


@dataclass(frozen=True)
class BenchReport:
    """All figures, and everything they depend on."""

    bundle: str
    digest: str
    target: str
    precision: str
    extractor: str
    batch: int
    height: int
    width: int
    engine: str
    threads: int
    in_flight: int
    """Inferences at the same time; more than one only where tuning for throughput chose it."""
    machine: Machine
    load_average: float | None
    """Before the measurement: a busy machine explains bad figures."""
    versions: dict[str, str]
    warmup: int
    image_ms: Latency
    """From a golden image's PNG bytes to its verdict: decoding, engine, decision."""
    engine_ms: Latency
    """One inference of a full batch whose pixels are in memory."""
    images_per_second: float
    """Full batches, engine alone, `in_flight` of them at the same time."""
    cold_start: ColdStart
    peak_rss_mib: float | None
    """Of a process that opened the bundle and judged its golden images."""

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, for a table."""
        cold, image, inference = self.cold_start, self.image_ms, self.engine_ms
        memory = "unknown" if self.peak_rss_mib is None else f"{self.peak_rss_mib:.0f} MiB"
        return [
            ("image to verdict", _line(image)),
            (f"engine, batch of {self.batch}", _line(inference)),
            ("throughput", f"{self.images_per_second:.1f} images/s"),
            (
                "cold start to first verdict",
                f"{cold.total_s:.2f} s (import {cold.import_s:.2f}, open {cold.open_s:.2f}, "
                f"verdict {cold.first_s:.2f})",
            ),
            ("peak memory", memory),
            ("engine version", f"{self.engine}, {self.threads} threads{self._together()}"),
            ("processor", f"{self.machine.cpu}, {self.machine.cpus} usable"),
        ]

    def _together(self) -> str:
        return f", {self.in_flight} in flight" if self.in_flight > 1 else ""


def bench(
    bundle: Bundle | str | os.PathLike[str],
    *,
    engine: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    runs: int = 1000,
    seconds: float = 60.0,
    warmup: int = 20,
    cold_starts: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Measure the bundle here: at most `runs` runs of each kind, and `seconds` for both together.

    `warmup` runs before each kind, fewer if they take long, are not counted.
    `progress` is called with the number of runs done and their total. Raises BundleError,
    EngineError, or InputError for a count that is not positive.
    """
    if runs < 1 or seconds <= 0 or warmup < 1 or cold_starts < 1:
        raise InputError(
            f"runs {runs}, seconds {seconds:g}, warmup {warmup}, cold_starts {cold_starts}: "
            "expected positive numbers"
        )
    load = load_average()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    manifest = opened.manifest
    with Detector(opened, engine, threads, precision=precision) as detector:
        used_precision = detector.engine.graph.precision
        name, version, used = detector.engine.name, detector.engine.version, detector.engine.threads
        together = detector.engine.in_flight
        files = [opened.read(entry.image) for entry in manifest.golden]
        batches = full_batches([golden.image for golden in opened.goldens()], opened.batch)
        half = _Budget(runs, seconds / 2, warmup, progress)
        image = half.measure(lambda data: _judge(detector, data), files)
        inference = half.measure(detector.engine.infer, batches)
        rate = 1e3 * opened.batch / inference.mean
        if together > 1:
            rate = opened.batch / _pace(detector.engine, batches, inference.runs)
    starts = [_start(opened.path, engine, threads, precision) for _ in range(cold_starts)]
    return BenchReport(
        bundle=str(opened.path),
        digest=manifest.digest,
        target=manifest.target,
        precision=used_precision,
        extractor=manifest.model.extractor,
        batch=opened.batch,
        height=manifest.pixels.height,
        width=manifest.pixels.width,
        engine=f"{name} {version}",
        threads=used,
        in_flight=together,
        machine=describe(),
        load_average=load,
        versions={"sanflow": __version__, "numpy": np.__version__, "opencv": cv2.__version__},
        warmup=warmup,
        image_ms=image,
        engine_ms=inference,
        images_per_second=round(rate, 2),
        cold_start=ColdStart(cold_starts, *(_median(starts, stage) for stage in _STAGES)),
        peak_rss_mib=max((s["rss_mib"] for s in starts if s["rss_mib"]), default=None),
    )


class _Budget:
    """How long to measure, and whom to tell; the same for both kinds of run."""

    def __init__(
        self,
        runs: int,
        seconds: float,
        warmup: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._runs, self._seconds, self._warmup = runs, seconds, warmup
        self._progress = progress
        self._kinds = 0

    def measure(self, call: Callable[[T], object], inputs: Sequence[T]) -> Latency:
        """Time single calls, taking the inputs in turn; warming up takes a fifth at most."""
        values = itertools.cycle(inputs)
        begin = time.perf_counter()
        deadline = begin + self._seconds
        for _ in range(self._warmup):
            call(next(values))
            if time.perf_counter() - begin > self._seconds / 5:
                break
        times: list[float] = []
        while len(times) < self._runs and (not times or time.perf_counter() < deadline):
            value = next(values)
            begin = time.perf_counter()
            call(value)
            times.append(1e3 * (time.perf_counter() - begin))
            if self._progress is not None:
                self._progress(self._kinds * self._runs + len(times), 2 * self._runs)
        self._kinds += 1
        return latency(times)


def latency(times: Sequence[float]) -> Latency:
    """Statistics of durations in milliseconds; percentiles are durations that occurred."""
    array = np.array(times)

    def percentile(percent: float) -> float | None:
        # A percentile beyond which nothing was seen is only the maximum under another name.
        if len(times) * (100 - percent) < 100 - 1e-9:
            return None
        return round(float(np.percentile(array, percent, method="higher")), 4)

    return Latency(
        runs=len(times),
        mean=round(float(array.mean()), 4),
        min=round(float(array.min()), 4),
        p50=round(float(np.percentile(array, 50, method="higher")), 4),
        p90=percentile(90),
        p99=percentile(99),
        p99_9=percentile(99.9),
        max=round(float(array.max()), 4),
    )


def _judge(detector: Detector, data: bytes) -> None:
    """A golden image has its size already, so the pixel path has nothing to do for it."""
    (result,) = detector.judge_inputs([imaging.decode(data)])
    if result.reason == "engine_error":
        raise EngineError(result.detail)


def full_batches(images: Sequence[NDArray[np.uint8]], size: int) -> list[NDArray[np.uint8]]:
    """Full batches that begin at each image in turn."""
    return [
        np.stack([images[(start + slot) % len(images)] for slot in range(size)])
        for start in range(len(images))
    ]


_STAGES = ("import_s", "open_s", "first_s", "total_s")


def _pace(engine: Engine, batches: Sequence[NDArray[np.uint8]], runs: int) -> float:
    """Seconds per inference with as many at the same time as the engine is set up for."""
    together = engine.in_flight
    begin = time.perf_counter()
    calls = itertools.islice(itertools.cycle(batches), max(runs, together))
    for _ in ahead(engine.infer, calls, together, 2 * together):
        pass
    return (time.perf_counter() - begin) / max(runs, together)


def _start(
    bundle: Path, engine: str | None, threads: int | None, precision: str | None
) -> dict[str, float]:
    """Judge once in a fresh process (cold.py); seconds per stage and its peak memory."""
    given = [str(bundle), engine or "", str(threads or ""), precision or ""]
    command = [*child_command("sanflow.runtime.cold"), *given]
    begin = time.time()
    try:
        done = subprocess.run(
            command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"{bundle}: no verdict within {CHILD_SECONDS} s of a cold start"
        ) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise EngineError(f"{bundle}: a fresh process could not judge: {last}") from None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {
        "import_s": found["imported"] - begin,
        "open_s": found["opened"] - found["imported"],
        "first_s": found["judged"] - found["opened"],
        "total_s": found["judged"] - begin,
        "rss_mib": found["rss_mib"],
    }


def _median(starts: Sequence[dict[str, float]], stage: str) -> float:
    return round(statistics.median(start[stage] for start in starts), 3)


def _line(times: Latency) -> str:
    figures = {"p50": times.p50, "p90": times.p90, "p99": times.p99, "p99.9": times.p99_9}
    known = [f"{name} {value:.2f}" for name, value in figures.items() if value is not None]
    missing = [name for name, value in figures.items() if value is None]
    more = f"; too few runs for {', '.join(missing)}" if missing else ""
    return f"{', '.join(known)}, max {times.max:.2f} ms ({times.runs} runs{more})"
