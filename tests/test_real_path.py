"""The whole path on real photographs with real weights, by the commands a user types."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sanflow.cli import app

pytestmark = [pytest.mark.real_parts, pytest.mark.slow]

COUNTS = {"train": 100, "test good": 40, "test defect": 40}


def sanflow(*words: object) -> Any:
    """The JSON of a command that must succeed, or its text."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


@pytest.fixture
def tiles(shared: Path, tmp_path: Path) -> Path:
    """A part of the ball-screw tiles, whole groups at a time, with their manifest."""
    source, root = shared / "data" / "bsd_tiles", tmp_path / "tiles"
    with (source / "manifest.csv").open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["group"], row["path"]))
    left, kept = dict(COUNTS), []
    for row in rows:
        good = row["label"] == "good"
        role = "train" if row["split"] == "train" else f"test {'good' if good else 'defect'}"
        if row["split"] in ("train", "test") and left[role]:
            left[role] -= 1
            kept.append(row)
    assert not any(left.values())
    for row in kept:
        for name in filter(None, (row["path"], row["mask"])):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, root / name)
    with (root / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    return root


def test_from_photographs_to_verdicts(tiles: Path, shared: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "verdicts"
    weights = shared / "weights" / "resnet18_imagenet_l123.safetensors"
    train = ("train", tiles, "--out", run, "--preset", "edge", "--weights", weights)
    sanflow(*train, "--size", 128, "--epochs", 4)

    found = sanflow("evaluate", run, tiles, "--resamples", 100, "--json")
    assert (found["good"], found["defective"]) == (40, 40)
    assert found["auroc"]["value"] > 0.65
    assert found["pixel_auroc"]["value"] > 0.9

    for target in ("onnx", "openvino"):
        bundle = tmp_path / target
        sanflow("export", run, "--target", target, "--out", bundle)
        words = ("verify", bundle, "--data", tiles / "test", "--run", run, "--json")
        report = sanflow(*words)
        assert report["passed"]
        for comparison in report["comparisons"]:
            assert comparison["score_relative"]["max"] <= 1e-4
            # A flip in the band: the threshold is a calibration image's own score.
            assert all(flip["in_band"] for flip in comparison["flips"])

    source = tiles / "test"
    summary = sanflow(
        "infer",
        tmp_path / "openvino",
        "--source",
        source,
        "--out",
        out,
        "--overlays",
        "ng",
        "--json",
    )
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert summary["images"] == len(lines) == 80
    assert summary["no_decision"] == 0
    scores = {image["path"].removeprefix("test/"): image["score"] for image in found["images"]}
    for line in lines:
        assert line["score"] == pytest.approx(scores[line["image"]], rel=1e-4)
        assert (line["overlay"] is not None) == (line["verdict"] == "NG")
