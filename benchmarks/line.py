"""The in-line station beside the bare engine: the GIL, overhead, overlap, the deadline's jitter.

    python benchmarks/line.py BUNDLE [--engine NAME] [--only WHAT] [--seconds S] [--out FILE]

The GIL: a thread counts in pure Python while another one is inside the engine. If the engine's call
keeps the GIL the count stands still; beside it what a sleeping thread and a thread of pure Python
leave. Overhead: for parts of 1 megapixel that come one by one, the time from a frame's arrival to
its verdict that the engine did not take, pixels to size included. Overlap: parts per second of the
whole station over those of the engine called in a loop, both in turns. Jitter: an engine that does
not come back before the deadline, and when the rejects leave, with the slow side busy beside it.
Frames are made beforehand. Writes results/line.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import RESULTS, machine

from sanflow.runtime.line.config import load
from sanflow.runtime.line.frame import Frame
from sanflow.runtime.line.output import Output, Picture
from sanflow.runtime.line.result import PartResult
from sanflow.runtime.line.source import EndOfSource, Source
from sanflow.runtime.line.station import SWITCH, Station
from sanflow.runtime.line.swap import Judge, prove

SIDE = 1024
"""Of a camera's frame: 1 megapixel."""
ROUNDS = 5


class Still(Source):
    """Frames made beforehand, at a rate or as fast as they are taken."""

    def __init__(self, frames: list[NDArray[np.uint8]], count: int, rate: float) -> None:
        super().__init__("still")
        self._frames, self._count, self._rate = frames, count, rate
        self.live = rate > 0
        self._index = 0
        self._next = time.monotonic()

    def open(self) -> None:
        self._next = time.monotonic() + 0.1

    def read(self, timeout: float) -> Frame | None:
        if self._index >= self._count:
            raise EndOfSource
        if self.live:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = max(self._next + 1 / self._rate, time.monotonic())
        self._index += 1
        image = self._frames[self._index % len(self._frames)]
        return Frame(image, "ok", time.monotonic(), sequence=self._index)

    def close(self) -> None: ...


class Keep(Output):
    """Collects the results."""

    fast = True

    def __init__(self) -> None:
        super().__init__("keep")
        self.results: list[PartResult] = []

    def open(self) -> None: ...

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        self.results.append(result)

    def close(self) -> None: ...


class Kept:
    """A judge that outlives the stations that use it."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        judge.close, self.close = lambda: None, judge.close  # type: ignore[method-assign]

    def __call__(self, path: str) -> Judge:
        return self._judge


def frames(grey: bool) -> list[NDArray[np.uint8]]:
    """Four different pictures of 1 megapixel."""
    rng = np.random.default_rng(0)
    shape = (SIDE, SIDE) if grey else (SIDE, SIDE, 3)
    return [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]


def station(
    open_judge: Callable[[str], Judge],
    source: Source,
    folder: str,
    toml: str = "",
    slow: bool = False,
    **line: object,
) -> list[PartResult]:
    """Run a station to the end of the source."""
    path = Path(folder) / "line.toml"
    path.write_text(toml)
    flags = {"line__deadline": "30s", "line__queue": 8, "line__idle_check": "60s"}
    flags |= {f"line__{name}": value for name, value in line.items()}
    config = load(path, **flags)
    keep = Keep()
    made = Station(
        ".", config, Path(folder), prove=open_judge, make_source=lambda: source,
        outputs=[keep], slow=slow,
    )  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()):
        made.run()
    return keep.results


def gil(kept: Kept, seconds: float) -> dict[str, float]:
    """How far a thread of pure Python counts while another one does something else."""
    judge = kept("")
    batch = np.zeros(judge.engine.inputs[0].shape, np.uint8)

    def python() -> None:
        sum(range(200_000))

    calls: dict[str, Callable[[], object]] = {
        "sleep": lambda: time.sleep(0.02),
        "python": python,
        "engine": lambda: judge.engine.infer(batch),
    }
    counts: dict[str, list[float]] = {name: [] for name in calls}
    stalls: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            with _busy(call):
                count, stall = _count(seconds / ROUNDS)
            counts[name].append(count)
            stalls[name].append(stall)
    base = statistics.median(counts["sleep"])
    return {
        "counted beside the engine, of beside a sleeper": _r(
            statistics.median(counts["engine"]) / base
        ),
        "counted beside pure Python, of beside a sleeper": _r(
            statistics.median(counts["python"]) / base
        ),
        "longest stall beside the engine, ms (median of rounds)": _r(
            1e3 * statistics.median(stalls["engine"])
        ),
        "longest stall beside a sleeper, ms (median of rounds)": _r(
            1e3 * statistics.median(stalls["sleep"])
        ),
        "one inference, ms": _r(1e3 * _median_of(calls["engine"], 9)),
    }


@contextlib.contextmanager
def _busy(call: Callable[[], object]) -> Iterator[None]:
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            call()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _count(seconds: float) -> tuple[float, float]:
    """Steps per second of this thread, and the longest time between two."""
    end, last, steps, longest = time.perf_counter() + seconds, time.perf_counter(), 0, 0.0
    while (now := time.perf_counter()) < end:
        longest = max(longest, now - last)
        last = now
        steps += 1
    return steps / seconds, longest


def overhead(judge: Kept, seconds: float, grey: bool) -> dict[str, float]:
    """Parts that come one by one: what of the time to the verdict the engine did not take."""
    pictures = frames(grey)
    bare = _bare(judge(""))
    each = _median_of(bare, 9)
    count = max(20, int(seconds / (3 * each)))
    alone: list[float] = []
    results: list[PartResult] = []
    for _ in range(ROUNDS):
        alone += _times(bare, count // ROUNDS)
        with tempfile.TemporaryDirectory() as folder:
            source = Still(pictures, count // ROUNDS, 1 / (2 * each))
            results += station(judge, source, folder)
    beside = [r.total_ms - r.engine_ms for r in results]
    return {
        "parts": len(results),
        "bare engine p50, ms": _r(1e3 * statistics.median(alone)),
        "engine in the station p50, ms": _r(statistics.median(r.engine_ms for r in results)),
        "arrival to verdict without the engine p50, ms": _r(statistics.median(beside)),
        "of it waiting for the worker p50, ms": _r(statistics.median(r.wait_ms for r in results)),
        "of it pixels to size p50, ms": _r(statistics.median(r.prepare_ms for r in results)),
        "of it waiting and handing over p50, ms": _r(
            statistics.median(r.total_ms - r.engine_ms - r.prepare_ms for r in results)
        ),
    }


def overlap(judge: Kept, seconds: float) -> dict[str, float]:
    """Parts per second of the station over those of the bare engine, round by round."""
    pictures = frames(grey=False)
    bare = _bare(judge(""))
    each = _median_of(bare, 9)
    count = max(20, int(seconds / ROUNDS / 2 / each))
    ratios, rates = [], []
    for _ in range(ROUNDS):
        first = count / sum(_times(bare, count))
        with tempfile.TemporaryDirectory() as folder:
            results = station(judge, Still(pictures, count, 0.0), folder)
        second = count / sum(_times(bare, count))
        rate = _rate(results)
        rates.append(rate)
        ratios.append(2 * rate / (first + second))
    return {
        "station over bare engine, median of rounds": _r(statistics.median(ratios)),
        "best round": _r(max(ratios)),
        "parts per second": _r(statistics.median(rates)),
    }


def jitter(kept: Kept, seconds: float) -> dict[str, float]:
    """When rejects leave whose engine is not back at the deadline; the slow side archives."""
    judge = kept("")
    real, deadline = judge.infer, 0.05

    def slow_infer(batch: NDArray[np.uint8]) -> Any:
        time.sleep(2 * deadline)
        return real(batch)

    judge.infer = slow_infer  # type: ignore[method-assign]
    pictures = frames(grey=False)
    with tempfile.TemporaryDirectory() as folder:
        results = station(
            kept, Still(pictures, int(30 * seconds), 30.0), folder,
            '[archive]\n[[output]]\nkind = "jsonl"\n', slow=True, deadline="50ms", hang="10s",
        )  # fmt: skip
    late = sorted(r.total_ms - 1e3 * deadline for r in results if r.reason == "deadline")
    del judge.infer
    return {
        "rejects": len(late),
        "after the deadline p50, ms": _r(statistics.median(late)),
        "after the deadline p99, ms": _r(late[int(0.99 * len(late))]),
        "after the deadline p99.9, ms": _r(late[int(0.999 * len(late))]),
        "after the deadline max, ms": _r(late[-1]),
    }


def _bare(judge: Judge) -> Callable[[], object]:
    shape = judge.engine.inputs[0].shape
    batch = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return lambda: judge.engine.infer(batch)


def _times(call: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return found


def _median_of(call: Callable[[], object], count: int) -> float:
    return statistics.median(_times(call, count))


def _rate(results: list[PartResult]) -> float:
    """From the first verdict to the last: starting and ending are not the pace."""
    times = [time_of(r) for r in results]
    return (len(times) - 1) / (times[-1] - times[0])


def time_of(result: PartResult) -> float:
    """Seconds of the day."""
    hours, minutes, seconds = result.created[11:-1].split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _r(value: float) -> float:
    return round(value, 3)


FIGURES: dict[str, Callable[[Kept, float], dict[str, float]]] = {
    "gil": gil,
    "overhead, grey frames": lambda kept, seconds: overhead(kept, seconds, grey=True),
    "overhead, colour frames": lambda kept, seconds: overhead(kept, seconds, grey=False),
    "overlap": overlap,
    "jitter": jitter,
}


def main() -> None:
    """Measure everything on one bundle."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--engine", action="append", help="default: all that read it")
    parser.add_argument("--seconds", type=float, default=30.0, help="per figure")
    parser.add_argument("--only", action="append", choices=FIGURES, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS / "line.json")
    given = parser.parse_args()
    from sanflow.bundle import Bundle
    from sanflow.runtime.registry import available_engines

    target = Bundle.open(given.bundle).manifest.target
    found: dict[str, Any] = {"command": f"line.py --seconds {given.seconds:g}"}
    found["machine"] = machine()
    sys.setswitchinterval(SWITCH)
    for name in given.engine or available_engines(target):
        kept = Kept(prove(given.bundle, name, 1))
        rows = {what: FIGURES[what](kept, given.seconds) for what in given.only or FIGURES}
        kept.close()
        found[f"{name}, 1 thread"] = rows
        print(name, json.dumps(rows, indent=1), flush=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
