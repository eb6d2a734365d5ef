"""Engines against PyTorch for three extractors, on real photographs of their own odd sizes.

    python benchmarks/parity.py --data ../shared/data --weights FOLDER --work FOLDER

Flows are trained for two epochs on 80 tiles of MTD: parity is a matter of arithmetic, not of how
good the model is. Writes benchmarks/results/parity.json with the verify report of every bundle.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from real_parts import RESULTS, machine, summary

from sanflow.calibration.calibrate import calibrate
from sanflow.export.export import export_run
from sanflow.export.reference import run_reference
from sanflow.runtime.parity import verify
from sanflow.training.presets import load_config
from sanflow.training.train import train

EXTRACTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18_imagenet_l123.safetensors", {}),
    "resnet50": ("resnet50v1_imagenet_l123.safetensors", {"model.stride_on": "1x1"}),
    "mobilenet_v2": ("mobilenet_v2_imagenet.safetensors", {}),
}
TRAIN, TEST = 80, 120


def main() -> None:
    """Train, export and verify each extractor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    data, images = few(given.data.resolve() / "mtd", given.work)
    found: dict[str, Any] = {"machine": machine(), "images": len(images)}
    for name, (file, options) in EXTRACTORS.items():
        config = load_config(
            "edge",
            overrides={
                "model.extractor": name,
                "weights": str(given.weights / file),
                "optim.epochs": 2,
                **options,
            },
        )
        run = train(data, given.work / name, config, resume=True)
        calibrate(run)
        for target in ("onnx", "openvino"):
            bundle = export_run(run, run.path / target, target, false_alarm_rate=0.1, force=True)
            report = verify(bundle, data=images, reference=run_reference(run, bundle))
            print(name, target, report.text(), flush=True)
            found[f"{name}, {target}"] = summary(report)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "parity.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def few(mtd: Path, work: Path) -> tuple[Path, list[Path]]:
    """A CSV manifest of a few training tiles, and every fifth test photograph."""
    path = work / "mtd-few.csv"
    train_images = sorted((mtd / "train" / "good").glob("*"))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "split"))
        for image in train_images[:: len(train_images) // TRAIN]:
            writer.writerow((image, "train"))
    test = sorted((mtd / "test").glob("*/*"))
    return path, test[:: max(1, len(test) // TEST)][:TEST]


if __name__ == "__main__":
    main()
