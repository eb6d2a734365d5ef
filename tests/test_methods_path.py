"""Every flow method by its name: trained, calibrated, exported, verified and measured."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.bundle import Bundle
from sanflow.cli import app
from sanflow.errors import Interrupted
from sanflow.run import open_run
from sanflow.training.journal import Journal

TINY = (
    "--weights none --extractor resnet18 --size 64 --epochs 1 --set model.blocks=2 "
    "--set model.head_width=8 --set pretext.steps=2 --set synth.quotas=[8,0,0,0]"
)
METHODS = {
    "cflow": "--set model.position_dim=16",
    "cflow-sp": "--set model.position_dim=16",
    "fastflow": "",
    "fastflow-sp": "--set model.taps=[8,16]",
}


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_from_photographs_to_a_verified_bundle(name: str, parts: Path, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    options = shlex.split(f"--method {name} {TINY} {METHODS[name]}")
    invoke("train", str(parts), "--out", str(run), *options)
    assert open_run(run).config.method == name
    for target in ("onnx", "openvino"):
        out = bundle / target
        invoke("export", str(run), "--out", str(out), "--target", target)
        assert Bundle.open(out).manifest.model.method == name
        invoke("verify", str(out))
    found = json.loads(invoke("evaluate", str(bundle / "onnx"), str(parts), "--json"))
    assert found["good"] == found["defective"] == 6
    assert found["pixel_auroc"] is not None


@pytest.mark.slow
def test_fibres_resume_to_the_same_bits(parts: Path, tmp_path: Path) -> None:
    """A run that is stopped after its first epoch ends as one that never was."""
    options = shlex.split(f"--method cflow {TINY} {METHODS['cflow']} --set optim.fibre=64")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    invoke("train", str(parts), "--out", str(whole), *options, "--epochs", "2")

    def stop(self: object, *given: object) -> None:
        real(self, *given)  # type: ignore[arg-type]
        raise Interrupted("stopped by the test")

    real = Journal.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        arguments = ["train", str(parts), "--out", str(halves), *options, "--epochs", "2"]
        assert CliRunner().invoke(app, arguments).exit_code != 0
    invoke("train", str(parts), "--out", str(halves), "--resume")
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()
