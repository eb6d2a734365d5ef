"""The fault matrix: everything that may break, again and again, while the promises are counted.

    python -m tests.runtime.line.faults [--parts N] [--case NAME] [--out FILE]

Each case runs a whole station on a small real engine. The camera is simulated, and so are the
engine's faults: they are raised inside a real ONNX Runtime engine's call, after it was proven.
Processes are really killed, brokers are really absent, the disk is really full to the journal's
write call. Counted are parts, not seconds: the deadline is generous where nothing is to be late.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from sanflow.bundle import Bundle, with_decisions
from sanflow.runtime.line import emitter, journal
from sanflow.runtime.line.journal import Follower
from sanflow.runtime.line.slowside import SlowSide
from sanflow.runtime.line.sources.sim import Camera, sim_source
from sanflow.runtime.line.station import Station
from sanflow.runtime.line.swap import Judge
from sanflow.runtime.ort import OrtEngine

from .station_kit import Collector, broken_promises, station

Fault = Literal["", "raise", "nan", "shape", "map", "hang"]


class FaultyEngine(OrtEngine):
    """A real engine that fails at each `every`-th call once it is armed."""

    def arm(self, fault: Fault, every: int, stuck: float) -> None:
        self.fault, self.every, self.stuck = fault, every, stuck
        self.calls = 0

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        found = super()._run(images)
        if not hasattr(self, "fault"):
            return found
        self.calls += 1
        if self.calls % self.every:
            return found
        if self.fault == "raise":
            raise RuntimeError("the driver says no")
        if self.fault == "hang":
            time.sleep(self.stuck)
        if self.fault == "nan":
            found["score"] = np.full_like(found["score"], np.nan)
        if self.fault == "map":
            found["map"] = np.full_like(found["map"], np.inf)
        if self.fault == "shape":
            found["map"] = found["map"][:, 1:]
        return found


def faulty(fault: Fault, every: int, stuck: float = 1.0) -> Callable[[str], Judge]:
    """What opens and proves such an engine."""

    def open_judge(path: str) -> Judge:
        bundle = Bundle.open(path)
        graph = bundle.manifest.graph()
        engine = FaultyEngine(bundle.path / graph.files[0], 1)
        engine.graph = graph
        judge = Judge(bundle, engine)
        engine.arm(fault, every, stuck)
        return judge

    return open_judge


@dataclass(frozen=True)
class Case:
    """One row of the matrix."""

    name: str
    uri: str = "rate=0"
    """Options of sim:."""
    fault: Fault = ""
    every: int = 7
    flags: dict[str, Any] = field(default_factory=dict)
    expected: tuple[str, ...] = ()
    """Reasons that must occur: the fault was really there."""
    forbidden: tuple[str, ...] = ()
    around: Callable[[Path], AbstractContextManager[object]] = lambda folder: nullcontext()
    """Something that goes on during the run."""
    meanwhile: Callable[[Station, Path], None] | None = None
    """Called again and again from another thread."""
    triggered: bool = False
    slow: bool = False
    config: str = ""
    """TOML of the outputs."""
    recorded: bool = False
    """Whether a file of the slow side must hold every result in the end."""
    bundles: int = 0
    """At least so many of them must have judged."""
    share: float = 1.0
    """Of the parts that other cases get; faults that take seconds get fewer."""


def _short_writes(folder: Path) -> AbstractContextManager[object]:
    """For half of the time the disk takes the first half of what is written, then nothing."""
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        # A period that the recorder's attempts do not keep step with.
        if time.monotonic() % 0.7 < 0.3:
            return write(descriptor, data[: len(data) // 2])
        if time.monotonic() % 0.7 < 0.5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    return mock.patch.object(journal.os, "write", full)


def _jumping_clock(folder: Path) -> AbstractContextManager[object]:
    """The wall clock leaps back and forth by days."""

    class Leaping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            leap = timedelta(days=3 if time.monotonic() % 0.2 < 0.1 else -3)
            return datetime.now(timezone.utc) + leap

    return mock.patch.object(emitter, "datetime", Leaping)


def _swap_to_broken(running: Station, folder: Path) -> None:
    broken = folder / "broken"
    if not broken.exists():
        shutil.copytree(folder / "bundle", broken)
        (broken / "model.onnx").write_bytes(b"no graph")
    running.swap(str(broken))
    time.sleep(0.05)


def _swap_to_and_fro(running: Station, folder: Path) -> None:
    other = folder / "other"
    if not other.exists():
        shutil.copytree(folder / "bundle", folder / "half")
        copied = Bundle.open(folder / "half")
        given = copied.manifest.graph().decision
        stricter = replace(given, threshold=given.band_low)
        with_decisions(copied, [stricter] * len(copied.manifest.graphs))
        (folder / "half").rename(other)
    running.swap(str(other if time.monotonic() % 0.4 < 0.2 else folder / "bundle"))
    time.sleep(0.05)


def _kill_slow_side(running: Station, folder: Path) -> None:
    time.sleep(1.5)
    if running.slow is not None and running.slow.pid is not None:
        os.kill(running.slow.pid, signal.SIGKILL)


LIVE = "rate=500"
RECORDS = '[[output]]\nkind = "jsonl"\n'
CASES = (
    Case("healthy", forbidden=("deadline", "overflow", "engine_error", "no_image")),
    Case("engine raises", fault="raise", expected=("engine_error",)),
    Case("engine says NaN", fault="nan", expected=("bad_score",)),
    Case("engine's map is infinite", fault="map", expected=("bad_score",)),
    Case("engine's shape is wrong", fault="shape", expected=("engine_error",)),
    Case(
        "engine hangs",
        LIVE,
        fault="hang",
        every=200,
        flags={"deadline": "100ms", "hang": "300ms", "queue": 8},
        expected=("deadline", "not_ready"),
    ),
    Case("camera drops frames", "drop=11", expected=("no_image",)),
    Case("camera's frames are corrupt", "corrupt=11&blank=13", expected=("incomplete",)),
    Case("camera repeats a frame", "repeat=11", expected=("no_image",)),
    Case(
        "camera sends the same picture under new numbers",
        "freeze=60",
        flags={"source__frozen": 3},
        expected=("no_image",),
    ),
    Case("camera's frames are late", "late=11&delay=3", expected=("deadline",)),
    Case("camera disconnects", f"{LIVE}&disconnect=300&away=0.1", flags={"queue": 64}),
    Case(
        "camera freezes",
        f"{LIVE}&hang=400&stuck=1",
        flags={"hang": "300ms", "queue": 64},
    ),
    Case(
        "triggers while the camera drops, disconnects and freezes",
        "drop=50&disconnect=333&away=0.1&hang=900&stuck=1",
        flags={"deadline": "150ms", "hang": "300ms", "queue": 8},
        expected=("no_image",),
        triggered=True,
        share=0.25,
    ),
    Case(
        "triggers, and the camera echoes no id",
        "drop=50&echo=0",
        flags={"deadline": "150ms", "queue": 8},
        expected=("no_image",),
        triggered=True,
        share=0.1,
    ),
    Case("queue overflows", "rate=20000", flags={"queue": 2}, expected=("overflow",)),
    Case("deadline too short", "rate=2000", flags={"deadline": "500us"}, expected=("deadline",)),
    Case("disk full", around=_short_writes),
    Case("clock jumps", around=_jumping_clock),
    Case("swap to a broken bundle", meanwhile=_swap_to_broken),
    Case("swap to and fro", meanwhile=_swap_to_and_fro, bundles=2),
    Case(
        "slow side killed",
        LIVE,
        flags={"queue": 64},
        meanwhile=_kill_slow_side,
        slow=True,
        config=RECORDS,
        recorded=True,
    ),
    Case(
        "broker down",
        LIVE,
        flags={"queue": 64},
        slow=True,
        config=f'[archive]\n{RECORDS}[[output]]\nkind = "mqtt"\nhost = "127.0.0.1"\nport = 9\n',
        recorded=True,
    ),
)


def run(case: Case, bundle: Bundle, folder: Path, parts: int) -> dict[str, Any]:
    """Run a case; what was counted, and every promise that was broken."""
    shutil.copytree(bundle.path, folder / "bundle")
    made, seen, camera = _make(case, Bundle.open(folder / "bundle"), folder, parts)
    over = threading.Event()
    helpers = []
    if case.meanwhile is not None:
        helpers.append(threading.Thread(target=_again, args=(case.meanwhile, made, folder, over)))
    if case.triggered:
        helpers.append(threading.Thread(target=_trigger, args=(made, parts)))
    for helper in helpers:
        helper.start()
    begin = time.monotonic()
    with case.around(folder):
        tally = made.run()
    took = time.monotonic() - begin
    over.set()
    for helper in helpers:
        helper.join()
    problems = broken_promises(seen.results)
    problems += list(_lost(case, made, seen, camera, parts))
    problems += list(_recorded(case, made, seen, folder))
    if len(tally.bundles) < case.bundles:
        problems.append(f"{len(tally.bundles)} changes of the bundle, expected {case.bundles}")
    problems += [f"no part was {reason}" for reason in case.expected if reason not in tally.reasons]
    problems += [f"a part was {reason}" for reason in case.forbidden if reason in tally.reasons]
    rows = list(Follower(folder / "station" / "journal").rows())
    if rows != [vars(result) for result in seen.results]:
        problems.append(f"{len(rows)} rows in the journal for {len(seen.results)} results")
    return {
        "case": case.name,
        "parts": tally.parts,
        "ok": tally.ok,
        "reasons": tally.reasons,
        "seconds": round(took, 1),
        "broken promises": problems,
    }


def _make(
    case: Case, bundle: Bundle, folder: Path, parts: int
) -> tuple[Station, Collector, Camera]:
    camera = Camera()
    count = "" if case.triggered else f"&count={parts}"
    uri = f"sim:noise?size=24x20&{case.uri}{count}"
    flags = dict(case.flags)
    if case.triggered:
        flags["source__trigger"] = "software"
    if case.config:
        flags["config"] = case.config
    made, seen = station(
        bundle,
        folder / "station",
        make_source=lambda: sim_source(uri, camera),
        open_judge=faulty(case.fault, case.every) if case.fault else None,
        slow=case.slow,
        **flags,
    )
    return made, seen, camera


def _lost(case: Case, made: Station, seen: Collector, camera: Camera, parts: int) -> Iterator[str]:
    """Parts that the station was told of, and that have no verdict."""
    if case.triggered:
        found = {result.part for result in seen.results}
        missing = set(range(1, parts + 1)) - found
        if missing or len(seen.results) != parts:
            yield f"{len(missing)} of {parts} triggered parts without a verdict"
        return
    handed = sum(1 for r in seen.results if r.sequence is not None)
    if handed != camera.handed_over:
        yield f"{camera.handed_over} frames were handed over, {handed} have a verdict"
    if made.emitter.waiting:
        yield f"{made.emitter.waiting} parts still wait"


def _recorded(case: Case, made: Station, seen: Collector, folder: Path) -> Iterator[str]:
    """Results that the slow side did not write, or not once, after the station's next start."""
    if not case.recorded:
        return
    again = SlowSide({**made.assignment(), "ring": "", "board": ""}, lambda text: None)
    again.look()
    again.close(60)
    found: list[int] = []
    for path in sorted((folder / "station" / "results").glob("*.jsonl")):
        found += [json.loads(line)["result"] for line in path.read_text().splitlines()]
    if found != [result.result for result in seen.results]:
        yield f"the slow side wrote {len(found)} of {len(seen.results)} results, or out of order"


def _again(
    task: Callable[[Station, Path], None], made: Station, folder: Path, over: threading.Event
) -> None:
    while not over.is_set():
        if made.queue.engine is not None:
            task(made, folder)
        time.sleep(0.01)


def _trigger(made: Station, parts: int) -> None:
    """A PLC that does not wait for verdicts."""
    while made.keeper.snapshot(0).state not in ("Ready", "Running", "Error"):
        time.sleep(0.01)
    for part in range(1, parts + 1):
        made.trigger(part)
        time.sleep(0.002)
    while made.emitter.waiting:
        time.sleep(0.01)
    made.stop()


def main() -> None:
    """Run the matrix and write what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="any bundle; sizes do not matter")
    parser.add_argument("--parts", type=int, default=10_000, help="per case")
    parser.add_argument("--case", action="append")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for case in CASES:
        if given.case and case.name not in given.case:
            continue
        with tempfile.TemporaryDirectory() as folder:
            parts = int(case.share * given.parts)
            rows.append(run(case, Bundle.open(given.bundle), Path(folder), parts))
        print(json.dumps(rows[-1]), flush=True)
    found = {"parts": sum(row["parts"] for row in rows), "cases": rows}
    print(
        f"{found['parts']} parts, broken promises: {sum(len(r['broken promises']) for r in rows)}"
    )
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
