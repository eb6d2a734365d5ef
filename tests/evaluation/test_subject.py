"""Runs as scorers, and what a page says about runs and bundles."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sanflow.bundle import manifest as m
from sanflow.config import OptimConfig, RunConfig
from sanflow.evaluation.evaluate import evaluate
from sanflow.evaluation.subject import bundle_subject, run_scorer, run_subject, seen_images
from sanflow.imaging import PixelPath
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.model.weights import WeightsInfo
from sanflow.run import DataRecord, Progress, Run, RunRecord, write_run

from .conftest import TestSet

SMALL = SanflowConfig(
    extractor="resnet18", height=64, width=64, position_dim=16, blocks=1, head_width=8
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    torch.set_num_threads(1)
    roles = {"train": (("a.png", "1" * 64),), "calibrate": (("b.png", "2" * 64),), "test": ()}
    record = RunRecord(
        config=RunConfig(model=SMALL, optim=OptimConfig(epochs=7), weights="/secret/folder/w.pth"),
        data=DataRecord(str(tmp_path), "mvtec", "f" * 64, roles),
        weights=WeightsInfo("w.pth", "e" * 64),
        progress=Progress(7, True),
    )
    return write_run(tmp_path / "line-4", record, SANFlow(SMALL))


def test_a_run_scores_as_its_model_does(run: Run, parts: TestSet) -> None:
    scorer, model = run_scorer(run), run.model()
    path = parts.samples[0].path
    score, heat = scorer(path)
    with torch.inference_mode():
        scores, maps = model(torch.from_numpy(run.pixel_path.load(path))[None])
    assert score == float(scores[0])
    assert heat.dtype == np.float32
    assert np.array_equal(heat, maps[0].numpy())
    got = evaluate(parts.samples[:4] + parts.samples[12:16], scorer, run.pixel_path, resamples=5)
    assert got.auroc is not None
    assert got.images[0].score == score


def test_seen_images_are_those_of_train_and_calibrate(run: Run, tmp_path: Path) -> None:
    known = {name: tmp_path / name for name in ("train", "calibrate", "new")}
    for name, path in known.items():
        path.write_text(name)
    digests = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("train", "calibrate")}
    roles = {name: ((name, digest),) for name, digest in digests.items()}
    record = replace(run.record, data=replace(run.record.data, roles=roles))
    seen = seen_images(replace(run, record=record))
    assert [seen(known[n]) for n in known] == ["train", "calibrate", None]


def test_a_runs_provenance_names_what_is_not_at_its_default(run: Run) -> None:
    facts = run_subject(run)
    assert facts["What"] == "run line-4"
    assert "7 epochs" in facts["Trained"]
    assert "resnet18" in facts["Extractor"]
    assert "model.height = 64" in facts["Not at its default"]
    assert "optim.epochs = 7" in facts["Not at its default"]
    assert "learning_rate" not in facts["Not at its default"]
    assert "1 train, 1 calibrate" in facts["Images of the run"]
    assert "/secret" not in "".join(facts.values())
    unfinished = replace(run, record=replace(run.record, progress=Progress(3, False)))
    assert "not finished" in run_subject(unfinished)["Trained"]


def test_a_bundles_provenance_names_its_engine_and_digest() -> None:
    sha = "a" * 64
    manifest = m.Manifest(
        schema="sanflow.bundle/2",
        sanflow="0.1.0",
        created="2026-01-31T12:00:00Z",
        target="onnx",
        graphs=(
            m.Graph(
                precision="fp32",
                regions={"likelihood": "fp32"},
                activation=None,
                files=("model.onnx",),
                scores=(1.0, 2.0, 3.0),
                part_scores=(1.0, 2.0, 3.0),
                decision=m.Decision(1.0, 0.1, 0.9, 1.1, 0.0, 2.0),
                tolerances=m.Tolerances(1e-4, 1e-4, 1e-3),
            ),
        ),
        model=m.ModelInfo(
            "sanflow",
            "resnet18",
            (8, 16),
            (),
            "reflect",
            "none",
            "likelihood",
            "max",
            "none",
            None,
            9,
            sha,
        ),
        data=m.DataInfo(sha, 20, 3, 3),
        input=m.Tensor("image", "uint8", (1, 64, 64, 3)),
        outputs=(),
        pixels=PixelPath(64, 64),
        calibration=m.CalibrationInfo((0.0, 0.0)),
        golden=(),
        references={},
        files={},
        digest="d" * 64,
    )
    facts = bundle_subject(manifest, manifest.graph(), "line-4.bundle", "onnxruntime 1.20")
    assert facts["What"] == "bundle line-4.bundle"
    assert facts["Engine"] == "onnxruntime 1.20"
    assert facts["Digest"] == "d" * 64
    assert "20 train, 3 calibrate" in facts["Images of the run"]
