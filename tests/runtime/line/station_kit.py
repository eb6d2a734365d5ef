"""A station with a simulated camera and a small real engine, and waiting for what it does."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sanflow.bundle import Bundle, with_decisions
from sanflow.runtime.line.config import LineConfig, load
from sanflow.runtime.line.output import Control, Output, Picture, StationState
from sanflow.runtime.line.result import PartResult
from sanflow.runtime.line.source import Source
from sanflow.runtime.line.sources.sim import sim_source
from sanflow.runtime.line.station import Station
from sanflow.runtime.line.swap import Judge, prove

LIVE = "sim:noise?size=24x20&rate=200"
"""A camera that goes on until the station is stopped."""


class Collector(Output):
    """A fast output that keeps everything."""

    fast = True

    def __init__(self) -> None:
        super().__init__("collector")
        self.results: list[PartResult] = []
        self.states: list[StationState] = []
        self.closed = threading.Event()

    def open(self) -> None: ...

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        self.results.append(result)

    def announce(self, state: StationState) -> None:
        self.states.append(state)

    def close(self) -> None:
        self.closed.set()


class Trigger(Output):
    """A PLC that sends part ids."""

    fast = True

    def __init__(self, early: int = 0) -> None:
        super().__init__("plc")
        self._early = early

    def attach(self, control: Control) -> None:
        self.control = control

    def open(self) -> None:
        for part in range(self._early):
            self.control.trigger(part)

    def emit(self, result: PartResult, picture: Picture | None) -> None: ...

    def close(self) -> None: ...


def line(folder: Path, toml: str = "", **flags: Any) -> LineConfig:
    """A configuration; `deadline` and other [line] fields by their names, `source__...` others."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "line.toml").write_text(toml)
    named = {k if "__" in k else f"line__{k}": v for k, v in flags.items()}
    return load(folder / "line.toml", **{"line__deadline": "2s", "source__uri": "sim:", **named})


def station(
    bundle: Bundle,
    folder: Path,
    uri: str = "sim:noise?size=24x20&count=50",
    *,
    make_source: Callable[[], Source] | None = None,
    open_judge: Callable[[str], Judge] | None = None,
    outputs: list[Output] | None = None,
    slow: bool = False,
    config: str = "",
    **flags: Any,
) -> tuple[Station, Collector]:
    """A station that is not running yet, and what collects its results."""
    collector = Collector()
    made = Station(
        bundle.path,
        line(folder, config, **flags),
        folder,
        prove=open_judge or (lambda path: prove(path, threads=1)),
        make_source=make_source or (lambda: sim_source(uri)),
        outputs=[collector, *(outputs or [])],
        slow=slow,
    )
    return made, collector


@contextmanager
def running(made: Station) -> Iterator[None]:
    """The station in a thread of its own; stopped at the end, its parts all answered."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        made.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert not made.emitter.waiting
    if failed:
        raise failed[0]


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for it; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def stricter(bundle: Bundle, path: Path) -> Bundle:
    """The same graph with a threshold below all scores: every part is NG."""
    shutil.copytree(bundle.path, path)
    copied = Bundle.open(path)
    given = copied.manifest.graph().decision
    decision = type(given)(-1.0, None, -1.0, -1.0, given.display_low, given.display_high)
    return with_decisions(copied, [decision])


def broken_promises(results: list[PartResult]) -> list[str]:
    """What the results of one life say against: once, in order, OK only from a finite score."""
    found = []
    for index, result in enumerate(results, 1):
        if result.result != index:
            found.append(f"result {result.result} at place {index}")
            break
    parts = [result.part for result in results]
    if len(set(parts)) != len(parts):
        found.append("a part has two verdicts")
    if parts != sorted(parts):
        found.append("parts out of order")
    thresholds: dict[str, float] = {}
    for result in results:
        if result.score is not None and result.threshold != thresholds.setdefault(
            result.bundle, result.threshold
        ):
            found.append(f"part {result.part}: another threshold than its bundle's")
        score = result.score
        if result.verdict == "OK" and not (score is not None and score <= result.threshold):
            found.append(f"part {result.part}: OK with score {score}")
        if result.verdict == "NG" and not result.reason:
            found.append(f"part {result.part}: NG without a reason")
    return found
