"""What a command says of data, options and folders from which no run can come: exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.cli import app

from .conftest import fails

TRAIN_FLAGS = [
    (["--preset", "edgy"], "unknown name 'edgy'; did you mean 'edge'?"),
    (["--set", "model.bloks=4"], "unknown field 'bloks'; did you mean 'blocks'?"),
    (["--set", "model.blocks=four"], "config.model.blocks: expected int, got str 'four'"),
    (["--set", "blocks"], "--set 'blocks': expected KEY=VALUE"),
    (["--extractor", "resnet19"], "extractor 'resnet19' is not one of"),
    (["--size", "big"], "--size 'big': expected N or HEIGHTxWIDTH"),
    (["--size", "100"], "must be a multiple of 32"),
    (["--roi", "1,2,3"], "--roi '1,2,3': expected X,Y,WIDTH,HEIGHT"),
    (["--roi", "0,0,0,9"], "width and height at least 1"),
    (["--roi", "0,0,500,9"], "outside"),
    (["--epochs", "0"], "epochs"),
    (["--layout", "zip"], "config.data.layout: 'zip' is not one of"),
    (["--config", "absent.toml"], "absent.toml: cannot be read"),
    (["--device", "gpu"], "device 'gpu'"),
    (["--weights", "absent.pth"], "absent.pth"),
]


@pytest.mark.parametrize(
    ("flags", "message"), TRAIN_FLAGS, ids=[" ".join(f) for f, _ in TRAIN_FLAGS]
)
def test_train_refuses_a_bad_option(
    flags: list[str], message: str, parts: Path, tmp_path: Path
) -> None:
    assert message in fails(2, "train", parts, "--out", tmp_path / "run", *flags)
    assert not (tmp_path / "run" / "run.json").exists()


def test_train_refuses_a_file_that_is_not_toml(parts: Path, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("epochs: 3")
    found = fails(2, "train", parts, "--out", tmp_path / "run", "--config", file)
    assert "not a TOML file" in found


@pytest.mark.parametrize("command", ["check", "train", "synth"])
def test_a_data_set_that_is_not_there(command: str, tmp_path: Path) -> None:
    out = [] if command == "check" else ["--out", tmp_path / "out.png"]
    assert "absent" in fails(2, command, tmp_path / "absent", *out)


def test_bad_images_are_named_by_check_and_by_train(parts: Path, tmp_path: Path) -> None:
    data = shutil.copytree(parts, tmp_path / "parts")
    (data / "train" / "good" / "003.png").write_bytes(b"")
    (data / "train" / "good" / "004.png").write_bytes(
        (data / "train" / "good" / "004.png").read_bytes()[:-40]
    )
    done = CliRunner().invoke(app, ["check", str(data), "--json"])
    assert done.exit_code == 2
    found = {(f["path"], f["problem"]) for f in json.loads(done.stdout)["findings"]}
    assert found == {("train/good/003.png", "empty"), ("train/good/004.png", "truncated")}
    message = fails(2, "train", data, "--out", tmp_path / "run")
    assert "003.png" in message
    assert "004.png" in message
    assert "--skip-bad" in message


def test_skip_bad_goes_on_without_them(
    parts: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    data = shutil.copytree(parts, tmp_path / "parts")
    (data / "train" / "good" / "003.png").write_bytes(b"")
    words = ["train", str(data), "--out", str(tmp_path / "run"), *tiny_options, "--skip-bad"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    roles = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["roles"]
    assert len(roles["train"]) == 15


def test_synth_writes_a_png_under_no_other_name(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.jpg"
    assert "expected a name that ends in .png" in fails(2, "synth", parts, "--out", out)
    assert not out.exists()


def test_an_output_that_cannot_be_written(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(2, "synth", parts, "--size", 64, "--out", tmp_path / "file" / "sheet.png")


def test_demo_wants_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert "not empty" in fails(2, "demo", "--quick", "--out", tmp_path)


def test_train_does_not_overwrite_a_run(tiny_run: Path, parts: Path) -> None:
    assert "--resume" in fails(2, "train", parts, "--out", tiny_run)


def test_train_does_not_resume_with_another_configuration(tiny_run: Path, parts: Path) -> None:
    """Only what was given can differ: no other option brings a preset's values back."""
    words = ("train", parts, "--out", tiny_run, "--resume")
    assert "the run has" in fails(2, *words, "--preset", "edge")
    for given, named in (
        (["--epochs", 4, "--size", 64], "optim.epochs = 4 (the run has 1)"),
        (["--method", "cflow"], "model.method = 'cflow' (the run has 'sanflow')"),
    ):
        message = fails(2, *words, *given)
        assert f"cannot continue {tiny_run} with {named}; give the same" in message


@pytest.mark.parametrize("there", [True, False])
def test_train_on_data_that_moved_names_its_own_argument(
    there: bool, tiny_run: Path, tmp_path: Path
) -> None:
    if there:
        (tmp_path / "moved").mkdir()
    message = fails(2, "train", tmp_path / "moved", "--out", tiny_run, "--resume")
    assert "(DATA of train, --data of the other commands)" in message


@pytest.mark.parametrize("there", [False, True])
def test_resuming_what_is_not_there_trains_nothing_else(
    there: bool, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "typo"
    if there:
        out.mkdir()
    message = fails(2, "train", parts, "--out", out, "--resume", "--weights", tmp_path / "no")
    assert f"{out}: no run to resume there; the name is another" in message
    assert out.exists() == there


@pytest.mark.parametrize("left", ["model.safetensors", ".model.safetensors.17.partial"])
def test_resuming_what_a_power_cut_left_before_the_record_begins_anew(
    left: str, parts: Path, tmp_path: Path
) -> None:
    (tmp_path / left).write_bytes(b"")
    words = ["train", parts, "--out", tmp_path, "--resume", "--weights", tmp_path / "no"]
    message = fails(2, *words)
    assert "it begins anew, with what this command says" in message
    assert "no such file" in message
