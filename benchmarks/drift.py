"""The monitor's test for drift: its rate of false alarms, how soon it finds what, real exposures.

    python benchmarks/drift.py [--only WHAT] [--bundle BUNDLE --parts CSV [--trained-on 123]]

false_alarms: scores of good parts (log-normal) from the calibration's own distribution, with and
without defects, until the first alarm, for a promise of one in `promised` parts; up to half of them
may be rejects, so that a threshold from few parts breaks no promise. Once also with parts that are
ranked among the calibration parts alone, as is usual, to see why they are not here.
delays: parts from a shift to its alarm, in standard deviations, with the promise of the default.
parts: with a bundle of MTD and the table it was trained from (its good test photographs; the
exposure is in a file's name): one half of them in random order, then alarms for others as they are,
for one exposure alone, and for all of them made darker or brighter.
unseen_exposures: parts with --trained-on, the exposures that the bundle was trained on (the table's
test photographs hold the others, too).
Writes results/drift.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timing import RESULTS, machine

from sanflow.bundle import Bundle
from sanflow.runtime.line.monitor.drift import Drift, Ranks
from sanflow.runtime.registry import open_engine

PROMISED, MOST, LIVES = 1000, 10_000, 100
DEFAULT = 1_000_000
GAINS = (0.3, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0)
ORDERS = 20


class Fixed(Ranks):
    """Ranks among the calibration parts alone."""

    def p(self, score: float) -> float:
        before = list(self._scores)
        found = super().p(score)
        self._scores = before
        return found


def good(rng: random.Random, shift: float = 0.0) -> float:
    return rng.lognormvariate(0.4 * shift, 0.4)


def wait(drift: Drift, scores: Iterator[float], most: int) -> tuple[int, str]:
    """Parts until the first alarm, and which; `most` and none if there is none."""
    for part, score in zip(range(1, most + 1), scores, strict=False):
        if begun := drift.add(score, part, ""):
            return part, begun[0].signal
    return most, "none"


def false_alarms(
    rng: random.Random, parts: int, defects: float, promised: int, fixed: bool
) -> dict[str, Any]:
    waits, signals = [], []
    for _ in range(LIVES):
        calibration = [good(rng) for _ in range(parts)]
        drift = Drift(
            calibration, max(calibration), parts=promised, rejects=0.5, seed=rng.randrange(2**31)
        )
        if fixed:
            drift._ranks = Fixed(drift._calibration, drift._draw)
        stream = iter(lambda: 9.0 if rng.random() < defects else good(rng), None)
        length, signal = wait(drift, stream, MOST)
        waits.append(length)
        signals.append(signal)
    ended = [w for w, signal in zip(waits, signals, strict=True) if signal != "none"]
    return {
        "calibration_parts": parts,
        "defects": defects,
        "ranked_among": "calibration parts alone" if fixed else "all before",
        "promised": promised,
        "lives": LIVES,
        "mean_wait_at_least": round(statistics.mean(waits)),
        "no_alarm": signals.count("none"),
        "within": {
            str(t): {"share": sum(w <= t for w in ended) / LIVES, "promised": t / promised}
            for t in (50, 100, 200, 500, 2000, 10_000)
            if t <= promised
        },
        "signals": {name: signals.count(name) for name in sorted(set(signals))},
    }


def delays(rng: random.Random, parts: int, shift: float, after: int) -> dict[str, Any]:
    waits, early = [], []
    for _ in range(15):
        calibration = sorted(good(rng) for _ in range(parts))
        drift = Drift(
            calibration, calibration[-1], parts=DEFAULT, rejects=0.1, seed=rng.randrange(2**31)
        )
        early.append(wait(drift, (good(rng) for _ in range(after)), after)[1])
        waits.append(wait(drift, iter(lambda: good(rng, shift), None), 3000)[0])
    low, middle, high = np.quantile(waits, [0.1, 0.5, 0.9])
    return {
        "calibration_parts": parts,
        "shift": shift,
        "after": after,
        "alarms_before": [signal for signal in early if signal != "none"],
        "parts": [round(low), round(middle), round(high)],
        "found": f"{sum(w < 3000 for w in waits)} of {len(waits)}",
    }


def judge(
    bundle: Bundle, paths: Sequence[Path], gains: Sequence[float]
) -> dict[float, list[float]]:
    """Scores of each photograph, multiplied by each gain."""
    pixels = bundle.manifest.pixels
    found: dict[float, list[float]] = {gain: [] for gain in gains}
    with open_engine(bundle, None, 1) as engine:
        for path in paths:
            image = pixels.load(path).astype(np.float32)
            for gain in gains:
                lit = np.clip(np.rint(gain * image), 0, 255).astype(np.uint8)
                found[gain].append(float(engine.infer(lit[None]).score[0]))
    return found


def real(bundle: Bundle, table: Path, trained_on: str, rng: random.Random) -> dict[str, Any]:
    """With `trained_on`, the digits of exposures, the first half is of these alone."""
    with open(table, encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["split"], r["label"]) == ("test", "good")]
    paths = [Path(row["path"]) for row in rows]
    gains = () if trained_on else GAINS
    scores = judge(bundle, paths, (1.0, *gains))
    exposures = [re.search(r"exp(\d)", path.name)[1] for path in paths]  # type: ignore[index]
    usual = [i for i, e in enumerate(exposures) if not trained_on or e in trained_on]
    graph = bundle.manifest.graphs[0]

    def alarms(name: str, second: dict[int, float], again: bool = False) -> dict[str, Any]:
        """Half of the photographs as they are, without those of `second` unless they come `again`
        in another light; then all of `second`."""
        waits, signals, early = [], [], 0
        for _ in range(ORDERS):
            order = [i for i in usual if again or i not in second]
            rng.shuffle(order)
            first, then = order[: len(usual) // 2], list(second)
            rng.shuffle(then)
            drift = Drift(
                graph.scores,
                graph.decision.threshold,
                parts=DEFAULT,
                rejects=0.1,
                seed=rng.randrange(2**31),
            )
            early += wait(drift, (scores[1.0][i] for i in first), len(first))[1] != "none"
            length, signal = wait(drift, (second[i] for i in then), len(then))
            signals.append(signal)
            if signal != "none":
                waits.append(length)
        found = {s: signals.count(s) for s in sorted(set(signals))}
        return {
            "then": name,
            "parts": len(then),
            "alarms_before": early,
            "alarms": ORDERS - found.pop("none", 0),
            "of": ORDERS,
            "signals": found,
            "median_wait": statistics.median(waits) if waits else None,
            "median_score": round(float(np.median(list(second.values()))), 3),
            "rejected": sum(score > graph.decision.threshold for score in second.values()),
        }

    half = rng.sample(usual, len(usual) // 2)
    found = [alarms("others, as they are", {i: scores[1.0][i] for i in half})]
    for exposure in sorted(set(exposures)):
        chosen = {i: scores[1.0][i] for i, e in enumerate(exposures) if e == exposure}
        found.append(alarms(f"exposure {exposure} alone", chosen))
    found += [alarms(f"gain {gain:g}", dict(enumerate(scores[gain])), True) for gain in gains]
    return {
        "calibration_parts": len(graph.scores),
        "calibration_median": round(float(np.median(graph.scores)), 3),
        "threshold": round(graph.decision.threshold, 3),
        "orders": ORDERS,
        "rows": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["false_alarms", "delays", "parts"])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--trained-on", default="", metavar="DIGITS")
    parser.add_argument("--out", type=Path, default=RESULTS / "drift.json")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    wanted = {given.only} if given.only else {"false_alarms", "delays", "parts"}
    known = json.loads(given.out.read_text("utf-8")) if given.only and given.out.exists() else {}
    document: dict[str, Any] = {
        **known,
        "command": "python benchmarks/drift.py --bundle BUNDLE --parts mtd-canonical.csv",
        "machine": machine(),
        "seeds": {**known.get("seeds", {}), **dict.fromkeys(sorted(wanted), given.seed)},
        "most_parts": MOST,
    }
    if "false_alarms" in wanted:
        cases = [(n, d, PROMISED, False) for n in (10, 50, 200) for d in (0.0, 0.05)]
        cases += [(50, 0.0, DEFAULT, False), (50, 0.0, DEFAULT, True)]
        document["false_alarms"] = [_said(false_alarms(rng, *case)) for case in cases]
    if "delays" in wanted:
        document["delays"] = [
            _said(delays(rng, parts, shift, after))
            for parts in (50, 200)
            for after in (0, 2000)
            for shift in (0.5, 1.0, 2.0, -0.5, -1.0, -2.0)
        ]
    if "parts" in wanted and given.bundle:
        found = real(Bundle.open(given.bundle), given.parts, given.trained_on, rng)
        document["unseen_exposures" if given.trained_on else "parts"] = _said(found)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(row, file=sys.stderr)
    return row


if __name__ == "__main__":
    main()
