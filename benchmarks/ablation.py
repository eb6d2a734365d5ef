"""Choose the `edge` preset without looking at a test image.

    python benchmarks/ablation.py --data ../shared/data --weights FILE --work FOLDER [--epochs N]
        [--set NAME] [--extractor NAME] [--only VARIANT] [--trained RUN]

Each variant is trained on the train role of one of the sets of real_parts.py (`--set`, MTD's
canonical split) and judged on its held-out good parts against synthetic anomalies made from them
(seeds that training never uses): image and pixel AUROC of pasted patches, and image AUROC of parts
that are changed as a whole. Writes benchmarks/results/ablation.json. `--trained` judges other
scores of one whole run; rows of other sets than the canonical split stand under the set's name,
those of other extractors than ResNet-18, other pools than [1], or smoothed features under these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from real_parts import RESULTS, SETS, machine, split
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
    "parts mirrored, in other light": {"synth.mirror": "both", "synth.light": 0.1},
    "smoothed, mirrored, in other light": {
        "model.smooth": 3,
        "synth.mirror": "both",
        "synth.light": 0.1,
    },
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
    "map smoothed with sigma 4": {"map_sigma": 4.0},
    "map smoothed with sigma 8": {"map_sigma": 8.0},
}
"""Other scores of one run, which need no training."""


def main() -> None:
    """Train and judge every variant, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--set", choices=SETS, default=SETS[0])
    parser.add_argument("--extractor", default="resnet18")
    parser.add_argument("--only", action="append", choices=sorted(VARIANTS))
    parser.add_argument("--trained", type=Path, metavar="RUN", help="a whole run on the set")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    data = split(given.set, given.data.resolve(), given.work)
    if given.trained:
        run = open_run(given.trained)
        for row, figures in judge(run, data, SCORES).items():
            epochs = run.config.optim.epochs
            model = run.config.model
            pools = "" if model.pools == (1,) else f", pools {list(model.pools)}"
            smooth = f", smooth {model.smooth}" if model.smooth > 1 else ""
            name = f"{given.set}{other(model.extractor)}{pools}{smooth}"
            record(f"{name}, {epochs} epochs: {row}", figures, epochs)
        return
    extractor = other(given.extractor)
    if given.set != SETS[0] or extractor:
        prefix = f"{given.set}{extractor}, {given.epochs} epochs of training: "
    else:
        prefix = ""
    for name in given.only or VARIANTS:
        options = {
            "model.extractor": given.extractor,
            "weights": str(given.weights),
            "optim.epochs": given.epochs,
            **VARIANTS[name],
        }
        out = given.work / f"{given.set}-{given.extractor}-{given.epochs}-{name}"
        out = out.with_name(out.name.replace(" ", "-").replace(",", ""))
        run = train(data, out, load_config("edge", overrides=options), resume=True)
        calibrate(run)
        changes = {name: {}, **(SCORES if name == "edge" else {})}
        for row, figures in judge(run, data, changes).items():
            record(prefix + row, figures, given.epochs)


def other(extractor: str) -> str:
    """What a row says of the extractor: nothing of ResNet-18."""
    return "" if extractor == "resnet18" else f", {extractor}"


def record(row: str, figures: dict[str, float], epochs: int) -> None:
    """Add a row to the results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "ablation.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found[row] = {**figures, "epochs": epochs, "machine": machine()}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(row, figures, flush=True)


@torch.inference_mode()
def judge(run: Run, data: Path, changes: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """AUROC of held-out good parts against anomalies made from them: patches, whole parts, pixels.

    One row per change of the score; the flows run once.
    """
    model, labels, truth = run.model(), [], []
    patches, wholes = 0, 0
    found: dict[str, tuple[list[float], list[float], list[Any]]] = {
        row: ([], [], []) for row in changes
    }
    for images, masks, altered in cases(run, data):
        levels = model.log_likelihoods(torch.from_numpy(images))
        other = model.log_likelihoods(torch.from_numpy(altered))
        labels += [bool(mask.any()) for mask in masks]
        truth.append(masks[:, ::4, ::4].flatten())
        patches, wholes = patches + int(masks.any(axis=(1, 2)).sum()), wholes + len(altered)
        for row, change in changes.items():
            config = replace(model.config, **change)
            scores, strange, heat = found[row]
            maps = anomaly_map(levels, model.level_max, config)
            scores += image_score(maps, config).tolist()
            heat.append(maps[:, ::4, ::4].flatten().numpy())
            strange += image_score(anomaly_map(other, model.level_max, config), config).tolist()
    pixels = np.concatenate(truth)
    rows = {}
    for row, (scores, strange, heat) in found.items():
        good = [score for score, label in zip(scores, labels, strict=True) if not label]
        against = [0] * len(good) + [1] * len(strange)
        rows[row] = {
            "image_auroc": round(float(roc_auc_score(labels, scores)), 4),
            "whole_auroc": round(float(roc_auc_score(against, good + strange)), 4),
            "pixel_auroc": round(float(roc_auc_score(pixels, np.concatenate(heat))), 4),
            "good": len(good),
            "patches": patches,
            "wholes": wholes,
        }
    return rows


def cases(
    run: Run, data: Path
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.uint8]]]:
    """Every held-out good part as it is and with each kind of patch, their masks, and the part
    changed as a whole."""
    held = open_dataset(data, run.config.data).calibrate
    images = [run.pixel_path.load(sample.path) for sample in held]
    pixels = run.pixel_path
    maker = Synthesiser(SynthConfig(quotas=(1, 1, 1, 1)), pixels.height, pixels.width, UNSEEN_SEED)
    rng = np.random.default_rng(UNSEEN_SEED)
    for step, image in enumerate(images):
        made, masks = maker.batch([image] * 4, images, 0, step)
        yield made, masks, changed(image, rng)


def changed(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The part as a whole in uneven light, of another contrast, blurred, and with noise."""
    plain = image.astype(np.float32)
    height, width = image.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    turn, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.4)
    ramp = 1 + strength * (np.cos(turn) * columns + np.sin(turn) * rows)
    contrast = rng.uniform(0.5, 0.7) if rng.random() < 0.5 else rng.uniform(1.4, 1.8)
    noise = rng.normal(0, rng.uniform(8, 20), (height, width, 1))
    made = (
        plain * ramp[:, :, None],
        (plain - plain.mean()) * contrast + plain.mean(),
        cv2.GaussianBlur(plain, (0, 0), rng.uniform(1.5, 3)),
        plain + noise,
    )
    return np.stack([np.clip(np.rint(picture), 0, 255).astype(np.uint8) for picture in made])


if __name__ == "__main__":
    main()
