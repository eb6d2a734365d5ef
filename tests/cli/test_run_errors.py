"""A run that is not fit for what is asked of it, by calibrate, export and evaluate: 2, 4 or 7."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sanflow.training import checkpoint
from sanflow.training.checkpoint import Checkpoint

from .conftest import fails


@pytest.mark.parametrize("command", ["calibrate", "export", "evaluate"])
def test_a_run_that_is_not_finished(
    command: str, tiny_run: Path, parts: Path, tmp_path: Path
) -> None:
    """Whatever is calibrated; how far it came stands in its checkpoint."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["progress"] = {"epochs_done": 0, "finished": False}
    record["config"]["optim"]["epochs"] = 3
    (run / "run.json").write_text(json.dumps(record))
    before = sorted(run.iterdir())
    rest = {"calibrate": [], "export": ["--out", tmp_path / "b"], "evaluate": [parts]}[command]
    go_on = f"`sanflow train {parts} --out {run} --resume`"
    assert f"{run}: trained for 0 of 3 epochs so far" in fails(2, command, run, *rest)
    checkpoint.save(run, Checkpoint({}, {}, {}, [{"epoch": 1}, {"epoch": 2}]))
    message = fails(2, command, run, *rest)
    assert f"{run}: trained for 2 of 3 epochs so far; first finish it: {go_on}" in message
    assert sorted(run.iterdir()) == sorted([*before, run / checkpoint.NAME])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("command", "rest"), [("calibrate", []), ("export", ["--out", "b"]), ("evaluate", ["parts"])]
)
def test_a_run_that_is_none(command: str, rest: list[str], tmp_path: Path) -> None:
    assert "sanflow train" in fails(2, command, tmp_path, *rest)


@pytest.mark.parametrize("command", ["calibrate", "export"])
def test_a_data_set_that_moved(command: str, tiny_run: Path, tmp_path: Path) -> None:
    out = [] if command == "calibrate" else ["--out", tmp_path / "b", "--false-alarm-rate", 0.1]
    found = fails(2, command, tiny_run, "--data", tmp_path / "gone", *out)
    assert "--data" in found


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_a_device_that_is_not_there(command: str, device: str, tiny_run: Path, parts: Path) -> None:
    rest = [parts] if command == "evaluate" else []
    assert device in fails(2, command, tiny_run, *rest, "--device", device)


def test_evaluate_refuses_a_file_for_the_report_before_it_scores(
    tiny_run: Path, parts: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "file", tmp_path / "file" / "report"):
        # A data set without images would be told first if it had been looked at.
        found = fails(2, "evaluate", tiny_run, tmp_path / "empty", "--out", out)
        assert f"{tmp_path / 'file'} is a file; give a folder for the report" in found


def test_evaluate_refuses_options_of_the_other_kind(
    tiny_run: Path, tiny_bundle: Path, parts: Path
) -> None:
    assert "--engine" in fails(2, "evaluate", tiny_run, parts, "--engine", "openvino")
    assert "threshold" in fails(2, "evaluate", tiny_bundle, parts, "--false-alarm-rate", 0.1)


def test_evaluate_refuses_images_the_run_was_trained_on(
    tiny_run: Path, parts: Path, tmp_path: Path
) -> None:
    data = tmp_path / "parts"
    for folder in ("train/good", "calibrate/good"):
        shutil.copytree(parts / folder, data / folder)
    shutil.copytree(parts / "train" / "good", data / "test" / "good")
    shutil.copytree(parts / "test" / "dent", data / "test" / "dent")
    assert fails(2, "evaluate", tiny_run, data)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "--out was not given: say where to write, or --explain to write nothing"),
        (["--explain", "--precision", "int4"], "'int4' is not one of fp32, fp16, bf16, int8, auto"),
        (["--explain", "--precision", "bf16"], "bf16 needs the target openvino, not onnx"),
        (["--explain", "--precision", "int8", "--defects", "nowhere"], "nowhere: no such folder"),
        (["--explain", "--defects", "nowhere"], "gate of a lower precision, which fp32 does not"),
        (["--explain", "--activation", "uint8"], "fp32 stores no activations in 8 bits"),
        (
            ["--explain", "--precision", "fp16", "--activation", "int8"],
            "--activation int8: fp16 stores no activations in 8 bits; leave it out",
        ),
    ],
)
def test_export_refuses_a_precision_that_cannot_be(
    tiny_run: Path, words: list[str], reason: str
) -> None:
    assert reason in fails(2, "export", tiny_run, *words)


def test_export_refuses_an_unknown_target(tiny_run: Path, tmp_path: Path) -> None:
    words = ("export", tiny_run, "--out", tmp_path / "b", "--target", "tflite")
    assert "'tflite' is not one of onnx, openvino" in fails(2, *words)


def test_export_leaves_a_foreign_folder_alone(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert "left alone" in fails(2, "export", tiny_run, "--out", tmp_path, "--force")
    assert (tmp_path / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("command", ["calibrate", "export", "threshold", "evaluate"])
def test_a_bound_that_the_parts_cannot_give(
    command: str, tiny_run: Path, tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    words: dict[str, list[object]] = {
        "calibrate": [run],
        "export": [run, "--out", tmp_path / "b"],
        "threshold": [tiny_bundle],
        "evaluate": [run, parts],
    }
    message = fails(7, command, *words[command], "--false-alarm-rate", 0.001)
    assert "at least 999 good parts" in message
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_a_run_that_is_not_calibrated(
    command: str, tiny_run: Path, parts: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "calibration.json").unlink()
    rest = [parts] if command == "evaluate" else ["--out", tmp_path / "b"]
    assert "sanflow calibrate" in fails(7, command, run, *rest)
