"""Train, calibrate, evaluate, export and verify on one real data set, beside a PatchCore.

    python benchmarks/real_parts.py SET --data ../shared/data --weights FILE --work FOLDER

SET is mtd-canonical (the literature's split, which leaks), mtd-grouped (by tile) or bsd_tiles.
Writes benchmarks/results/SET.json: figures with bootstrap intervals, times, memory, parity.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from patchcore import PatchCore

from sanflow.calibration.calibrate import calibrate, load_calibration
from sanflow.calibration.threshold import usual_rate
from sanflow.data.layout import Dataset, open_dataset
from sanflow.evaluation.evaluate import Scorer, evaluate
from sanflow.evaluation.report import write_report
from sanflow.evaluation.result import Evaluation
from sanflow.evaluation.subject import run_scorer, run_subject, seen_images
from sanflow.export.export import export_run
from sanflow.export.reference import run_reference
from sanflow.run import Run, open_run
from sanflow.runtime.parity import VerifyReport, verify

RESULTS = Path(__file__).parent / "results"
SETS = ("mtd-canonical", "mtd-grouped", "bsd_tiles")
VERIFIED = 120


def main() -> None:
    """One data set from its folder to its row in the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", default="edge")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set-option", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    data = split(given.set, given.data.resolve(), given.work)
    out = given.work / f"{given.set}-seed{given.seed}"
    command = [sys.executable, "-m", "sanflow", "train", str(data), "--out", str(out)]
    command += ["--preset", given.preset, "--weights", str(given.weights)]
    command += ["--seed", str(given.seed)]
    for option in given.set_option:
        command += ["--set", option]
    cost: dict[str, float] = {}  # empty where the run was there already
    if not (out / "calibration.json").exists():
        begin = time.monotonic()
        subprocess.run(command, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        cost["train_seconds"] = round(time.monotonic() - begin, 1)
        cost["train_peak_gib"] = round(peak, 2)
    result = {
        "set": given.set,
        "command": " ".join(
            [
                f"sanflow train {given.set} --preset {given.preset}",
                f"--weights {given.weights.name} --seed {given.seed}",
                *(f"--set {option}" for option in given.set_option),
            ]
        ),
        "machine": machine(),
        **cost,
        **measure(open_run(out), data, given.work / f"{given.set}-report", given.seed),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1)
    (RESULTS / f"{given.set}-seed{given.seed}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def split(name: str, data: Path, work: Path) -> Path:
    """The data set as `sanflow train` takes it; the canonical split becomes a CSV manifest."""
    if name == "bsd_tiles":
        return data / "bsd_tiles"
    mtd = data / "mtd"
    if name == "mtd-grouped":
        return mtd
    names = set((mtd / "differnet_train.txt").read_text(encoding="utf-8").split())
    path = work / "mtd-canonical.csv"
    with (mtd / "manifest.csv").open(encoding="utf-8", newline="") as source:
        rows = [row for row in csv.DictReader(source) if row["split"] != "excluded"]
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(("path", "split", "label", "mask"))
        for row in rows:
            trains = row["label"] == "good" and Path(row["source"]).name in names
            mask = mtd / row["mask"] if row["mask"] else ""
            writer.writerow((mtd / row["path"], "train" if trains else "test", row["label"], mask))
    return path


def measure(run: Run, data: Path, report: Path, seed: int) -> dict[str, Any]:
    """Evaluate the run and the PatchCore on the same test images; export and verify twice."""
    if not (run.path / "calibration.json").exists():
        calibrate(run)
    dataset = open_dataset(data, run.config.data)
    ours, seconds = timed(lambda: judge(run, dataset, run_scorer(run)))
    write_report(ours, dataset.test, run_scorer(run), run.pixel_path, report)
    core = PatchCore(run.model(), run.pixel_path, seed)
    core.fit([s.path for s in dataset.train])
    baseline = judge(run, dataset, core)
    parity, rate = {}, usual_rate(len(load_calibration(run).part_scores))
    images = [s.path for s in dataset.test][:: max(1, len(dataset.test) // VERIFIED)]
    for target in ("onnx", "openvino"):
        bundle = export_run(run, run.path / target, target, false_alarm_rate=rate, force=True)
        found = verify(bundle, data=images, reference=run_reference(run, bundle))
        parity[target] = summary(found)
    return {
        "config": subject(run),
        "images": {role: len(s) for role, s in dataset.roles().items()},
        "evaluate_seconds": round(seconds, 1),
        "sanflow": figures(ours),
        "patchcore": figures(baseline),
        "parity": parity,
    }


def judge(run: Run, dataset: Dataset, scorer: Scorer) -> Evaluation:
    """Every metric of one scorer on the test images."""
    return evaluate(
        dataset.test, scorer, run.pixel_path, subject=run_subject(run), seen=seen_images(run)
    )


def figures(found: Evaluation) -> dict[str, Any]:
    """What goes into the table, with 95 % intervals where there are any."""
    named = {
        "image_auroc": found.auroc,
        "image_ap": found.average_precision,
        "pixel_auroc": found.pixel_auroc,
        "aupro": found.aupro,
    }
    values: dict[str, Any] = {
        name: [round(x, 4) for x in (e.value, e.low, e.high)] if e else None
        for name, e in named.items()
    }
    values["by_defect"] = {
        kind.label: round(kind.auroc.value, 4) for kind in found.kinds if kind.auroc
    }
    return values


def summary(found: VerifyReport) -> list[dict[str, Any]]:
    """A verify report without the paths of its images: per engine and set of images."""
    keep = ("engine", "version", "source", "images", "score_relative", "map_absolute")
    return [
        {**{k: c[k] for k in keep}, "flips": len(c["flips"]), "passed": c["passed"]}
        for c in found.to_json()["comparisons"]
    ]


def subject(run: Run) -> dict[str, str]:
    """The run's provenance without paths."""
    return {k: v for k, v in run_subject(run).items() if k not in ("What",)}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds it took."""
    begin = time.monotonic()
    return work(), time.monotonic() - begin


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(terse=True),
        "versions": {n: version(n) for n in ("torch", "onnxruntime", "openvino", "numpy")},
    }


if __name__ == "__main__":
    main()
