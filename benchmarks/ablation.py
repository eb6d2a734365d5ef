"""Choose the `edge` preset without looking at a test image.

    python benchmarks/ablation.py --data ../shared/data --weights FILE --work FOLDER [--epochs N]

Each variant is trained on the train role of MTD's canonical split and judged on its held-out good
tiles against synthetic anomalies made from them (seeds that training never uses): image and pixel
AUROC. Writes benchmarks/results/ablation.json. `--trained` judges other scores of one whole run, on
one of the sets of real_parts.py; its rows stand under the name of the set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from real_parts import RESULTS, machine, split
from sklearn.metrics import roc_auc_score

from sanflow.calibration.calibrate import calibrate
from sanflow.data.config import SynthConfig
from sanflow.data.layout import open_dataset
from sanflow.data.synthetic import Synthesiser
from sanflow.model.score import anomaly_map, image_score
from sanflow.run import Run, open_run
from sanflow.training.presets import load_config
from sanflow.training.train import train

UNSEEN_SEED = 1_000_003
VARIANTS: dict[str, dict[str, Any]] = {
    "edge": {},
    "without the pooled level": {"model.pools": []},
    "features scaled at every position": {"model.feature_scale": "position"},
    "taps 4, 8, 16": {"model.taps": [4, 8, 16]},
    "features as they are": {"model.feature_scale": "none", "optim.feature_noise": 0.0},
    "192 px": {"model.height": 192, "model.width": 192},
    "maps smoothed over 3x3": {"model.smooth": 3},
    "4x4 cells too": {"model.pools": [4, 1]},
    "16x16 joined cells too": {"model.pools": [16, 1]},
    "every position drawn": {"optim.positions": 1.0},
    "three times the learning rate": {"optim.learning_rate": 3e-3},
    "one update per batch": {"optim.updates": 1},
}
SCORES: dict[str, dict[str, Any]] = {
    "pooled level counts 0.05 times": {"pool_weight": 0.05},
    "pooled level counts 0.1 times": {"pool_weight": 0.1},
    "pooled level counts 0.3 times": {"pool_weight": 0.3},
    "pooled level counts once": {"pool_weight": 1.0},
    "pooled level counts three times": {"pool_weight": 3.0},
    "log-likelihoods summed": {"fusion": "log_likelihood"},
    "mean of the top 1 %": {"image_score": "top"},
}
"""Other scores of one run, which need no training."""


def main() -> None:
    """Train and judge every variant, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=sorted(VARIANTS))
    parser.add_argument(
        "--trained", nargs=2, metavar=("SET", "RUN"), help="mtd-canonical, mtd-grouped, bsd_tiles"
    )
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.trained:
        name, folder = given.trained
        run = open_run(Path(folder))
        data = split(name, given.data.resolve(), given.work)
        for row, figures in judge(run, data, SCORES).items():
            record(f"{name}: {row}", figures, run.config.optim.epochs)
        return
    data = split("mtd-canonical", given.data.resolve(), given.work)
    for name in given.only or VARIANTS:
        options = {"weights": str(given.weights), "optim.epochs": given.epochs, **VARIANTS[name]}
        out = given.work / name.replace(" ", "-").replace(",", "")
        run = train(data, out, load_config("edge", overrides=options), resume=True)
        calibrate(run)
        changes = {name: {}, **(SCORES if name == "edge" else {})}
        for row, figures in judge(run, data, changes).items():
            record(row, figures, given.epochs)


def record(row: str, figures: dict[str, float], epochs: int) -> None:
    """Add a row to the results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "ablation.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found[row] = {**figures, "epochs": epochs, "machine": machine()}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(row, figures["image_auroc"], figures["pixel_auroc"], flush=True)


@torch.inference_mode()
def judge(run: Run, data: Path, changes: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Image and pixel AUROC of held-out good parts against synthetic anomalies made from them.

    One row per change of the score; the flows run once.
    """
    model, labels, truth = run.model(), [], []
    found: dict[str, tuple[list[float], list[Any]]] = {row: ([], []) for row in changes}
    for images, masks in cases(run, data):
        levels = model.log_likelihoods(torch.from_numpy(images))
        labels += [bool(mask.any()) for mask in masks]
        truth.append(masks[:, ::4, ::4].flatten())
        for row, change in changes.items():
            config = replace(model.config, **change)
            maps = anomaly_map(levels, model.level_max, config)
            scores, heat = found[row]
            scores += image_score(maps, config).tolist()
            heat.append(maps[:, ::4, ::4].flatten().numpy())
    pixels = np.concatenate(truth)
    return {
        row: {
            "image_auroc": round(float(roc_auc_score(labels, scores)), 4),
            "pixel_auroc": round(float(roc_auc_score(pixels, np.concatenate(heat))), 4),
            "good": labels.count(False),
            "synthetic": labels.count(True),
        }
        for row, (scores, heat) in found.items()
    }


def cases(run: Run, data: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Every held-out good part as it is, and with each kind of anomaly."""
    held = open_dataset(data, run.config.data).calibrate
    images = [run.pixel_path.load(sample.path) for sample in held]
    pixels = run.pixel_path
    maker = Synthesiser(SynthConfig(quotas=(1, 1, 1, 1)), pixels.height, pixels.width, UNSEEN_SEED)
    for step, image in enumerate(images):
        yield maker.batch([image] * 4, images, 0, step)


if __name__ == "__main__":
    main()
