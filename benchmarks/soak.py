"""A long run of the whole station: `sanflow run` as a user starts it, watched from outside.

    python benchmarks/soak.py BUNDLE [--minutes 30] [--load 0.8] [--config line.toml] [--page URL]

What the bare engine keeps up with in nine of ten calls, beside whatever else the machine does, sets
the pace: parts come at `load` of that, 1 megapixel each, every 500th too late on purpose. The page,
if there is one, is read all the time. From the journal: late verdicts beyond those, p50 and p99.9
of the time to the verdict. From the system, every five seconds: memory of both processes, and
the processors' time that the host of a virtual machine took. Writes results/soak.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from timing import RESULTS, machine

from sanflow.bundle import Bundle
from sanflow.runtime.line.journal import Follower
from sanflow.runtime.registry import open_engine

LATE = 500
"""Every so many parts, one comes after its deadline."""
WARM_UP = 0.1
"""Of the run, before memory is compared."""
SAMPLE = 5.0


def main() -> None:
    """Pace, run, look."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--rate", type=float, help="parts per second, instead of --load")
    parser.add_argument("--engine")
    parser.add_argument("--prefix", default="", help='in front of the command: "chrt -f 1"')
    parser.add_argument("--config", type=Path, help="outputs, archive, monitor")
    parser.add_argument("--page", help="URL that is read all the time")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    given = parser.parse_args()
    each = pace(given.bundle, given.engine)
    rate = given.rate or given.load / each
    deadline = f"{round(4e3 * each)}ms"
    source = f"sim:noise?size=1024x1024&rate={rate:.3f}&late={LATE}&delay={8 * each:.3f}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [
            *given.prefix.split(),
            sys.executable,
            "-m",
            "sanflow",
            "run",
            given.bundle,
            "--source",
            source,
        ]
        command += ["--deadline", deadline, "--out", folder, "--threads", "1"]
        command += ["--config", str(given.config)] if given.config else []
        command += ["--engine", given.engine] if given.engine else []
        with open(log, "w") as file:
            station = subprocess.Popen(command, stderr=file)
        over = threading.Event()
        pages = Pages(given.page, over)
        samples = watch(station, 60 * given.minutes)
        over.set()
        if station.poll() is None:
            station.send_signal(signal.SIGTERM)
        code = station.wait(60)
        rows = list(Follower(Path(folder) / "journal").rows())
        found: dict[str, Any] = {
            "command": " ".join(["soak.py", *sys.argv[1:]]),
            "machine": machine(),
            "bare engine p90, ms": round(1e3 * each, 3),
            "parts per second": round(rate, 3),
            "deadline": deadline,
            "exit code": code,
            **figures(rows),
            "memory": memory(samples),
            "taken by the host in 5 s, ms: sum, most": taken(samples),
            "page reads": pages.read,
            "page failures": pages.failed,
            "log": log.read_text().splitlines()[-20:],
        }
    print(json.dumps(found, indent=1))
    given.out.write_text(json.dumps(found, indent=1) + "\n")


def pace(bundle: str, engine: str | None) -> float:
    """Seconds of one inference with one thread: nine of ten are faster, of 20 seconds of them."""
    with open_engine(Bundle.open(bundle), engine, 1) as opened:
        batch = np.random.default_rng(0).integers(0, 256, opened.inputs[0].shape, np.uint8)
        times: list[float] = []
        end = time.monotonic() + 20
        while time.monotonic() < end:
            begin = time.perf_counter()
            opened.infer(batch)
            times.append(time.perf_counter() - begin)
    return sorted(times)[int(0.9 * len(times))]


class Pages:
    """A visitor who never stops reading."""

    def __init__(self, url: str | None, over: threading.Event) -> None:
        self.read = self.failed = 0
        if url:
            threading.Thread(target=self._loop, args=(url, over), daemon=True).start()

    def _loop(self, url: str, over: threading.Event) -> None:
        while not over.wait(0.2):
            try:
                with urllib.request.urlopen(url, timeout=5) as page:
                    page.read(2_000_000)
                self.read += 1
            except OSError:
                self.failed += 1


def watch(station: subprocess.Popen[bytes], seconds: float) -> list[dict[str, float]]:
    """Resident memory in MiB of the station and of its slow side."""
    end, samples = time.monotonic() + seconds, []
    while time.monotonic() < end and station.poll() is None:
        time.sleep(SAMPLE)
        child = _children(station.pid)
        found = {"station": _rss(station.pid), "taken": _taken()}
        if child:
            found["slow side"] = _rss(child[0])
        samples.append(found)
    return samples


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _rss(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Growth from the end of the warm-up to the end: medians of a tenth of the run each."""
    found: dict[str, Any] = {}
    tenth = max(1, int(WARM_UP * len(samples)))
    for name in ("station", "slow side"):
        values = [sample[name] for sample in samples if sample.get(name)]
        if len(values) > 3 * tenth:
            first = statistics.median(values[tenth : 2 * tenth])
            last = statistics.median(values[-tenth:])
            found[name] = {
                "after warm-up, MiB": round(first, 1),
                "at the end, MiB": round(last, 1),
                "growth": round(last / first - 1, 4),
            }
    return found


def taken(samples: list[dict[str, float]]) -> list[float]:
    """Milliseconds of processors that the host gave to others: in all, most between two looks."""
    counts = [sample["taken"] for sample in samples]
    steps = [after - before for before, after in itertools.pairwise(counts)]
    return [round(sum(steps)), round(max(steps, default=0.0))]


def _taken() -> float:
    ticks = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return 1e3 * ticks / os.sysconf("SC_CLK_TCK")


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the journal says."""
    injected = sum(1 for row in rows if row["sequence"] and row["sequence"] % LATE == 0)
    late = [row for row in rows if row["late"]]
    others = sum(1 for row in late if not (row["sequence"] and row["sequence"] % LATE == 0))
    times = sorted(row["total_ms"] for row in rows if row["score"] is not None and not row["late"])
    results = [row["result"] for row in rows]
    reasons: dict[str, int] = {}
    for row in rows:
        reasons[row["reason"] or "OK"] = reasons.get(row["reason"] or "OK", 0) + 1
    p50, p999 = times[len(times) // 2], times[int(0.999 * len(times))]
    engine = sorted(row["engine_ms"] for row in rows if row["engine_ms"])
    return {
        "parts": len(rows),
        "engine busy, of the time": round(_busy(rows), 3),
        "in order, each once": results == list(range(1, len(rows) + 1)),
        "reasons": reasons,
        "late on purpose": injected,
        "late beyond those": others,
        "those": [
            [row["created"], row["engine_ms"], row["total_ms"]]
            for row in late
            if not (row["sequence"] and row["sequence"] % LATE == 0)
        ][:50],
        "verdict p50, ms": p50,
        "verdict p99, ms": times[int(0.99 * len(times))],
        "verdict p99.9, ms": p999,
        "p99.9 / p50": round(p999 / p50, 3),
        "engine p50, p99, p99.9, max, ms": [
            engine[int(share * (len(engine) - 1))] for share in (0.5, 0.99, 0.999, 1)
        ],
    }


def _busy(rows: list[dict[str, Any]]) -> float:
    begin, end = (datetime.fromisoformat(rows[i]["created"][:-1]) for i in (0, -1))
    return sum(row["engine_ms"] for row in rows) / 1e3 / (end - begin).total_seconds()


if __name__ == "__main__":
    main()
