"""Every method the whole way: trained, calibrated, exported with parity, judged by an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.cli import app
from sanflow.errors import Interrupted
from sanflow.model.options import METHOD_NAMES
from sanflow.training.journal import Journal

SIDE = 96
"""Of the smallest image that every method takes: two windows of three patches."""
TINY: dict[str, list[str]] = {
    "cls-cnf": ["hybrid.warmup_epochs=1", "hybrid.joint_epochs=1", "hybrid.validation=4"],
}
WIDE = ["model.position_dim=16", "model.blocks=2"]
for _name in ("sanflow", "cflow", "cflow-sp", "cls-cnf"):
    TINY[_name] = [*TINY.get(_name, []), *WIDE]
for _name in ("fastflow", "fastflow-sp"):
    TINY[_name] = ["model.blocks=2"]


def run(*command: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_whole_way(name: str, parts: Path, tmp_path: Path) -> None:
    trained, bundle, judged = (tmp_path / folder for folder in ("run", "bundle", "judged"))
    sets = [word for one in TINY.get(name, []) for word in ("--set", one)]
    options = ["--preset", "edge", "--weights", "none", "--extractor", "resnet18"]
    small = ["--size", str(SIDE), "--epochs", "1", "--set", "pretext.steps=2"]
    run("train", parts, "--out", trained, "--method", name, *options, *small, *sets)
    run("export", trained, "--out", bundle, "--target", "openvino", "--false-alarm-rate", "0.1")
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert manifest["model"]["method"] == name
    assert (manifest["model"]["image_score"] == "image") == (name in ("sanf-ad", "foad-mfff"))
    assert "no verdict flips" in run("verify", bundle, "--run", trained)
    run("infer", bundle, "--source", parts / "test", "--out", judged)
    found = json.loads(run("evaluate", bundle, parts, "--resamples", "10", "--json"))
    localises = manifest["model"]["image_score"] != "image"
    assert (found["pixel_auroc"] is not None) == localises


def test_a_transformer_cannot_be_taught(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["train", str(parts), "--out", str(out), "--method", "sanf-ad", "--weights", "none"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "vit_b_16 cannot be taught" in done.output
    assert not out.exists()


@pytest.mark.slow
def test_fibres_resume_to_the_same_bits(parts: Path, tmp_path: Path) -> None:
    """A CFLOW-AD that is stopped after its first epoch ends as one that never was."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    small = ["--weights", "none", "--extractor", "resnet18", "--size", "64", "--epochs", "2"]
    sets = [*WIDE, "pretext.steps=2", "synth.quotas=[8,0,0,0]", "optim.fibre=64"]
    options = ["--method", "cflow", *small, *(word for one in sets for word in ("--set", one))]
    run("train", parts, "--out", whole, *options)

    def stop(self: object, *given: object) -> None:
        real(self, *given)  # type: ignore[arg-type]
        raise Interrupted("stopped by the test")

    real = Journal.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        words = ["train", str(parts), "--out", str(halves), *options]
        assert CliRunner().invoke(app, words).exit_code != 0
    run("train", parts, "--out", halves, "--resume")
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()
