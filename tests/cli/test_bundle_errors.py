"""A bundle, an engine or images that cannot be used, by the commands of the line: 2 to 6."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.bundle import Bundle
from sanflow.bundle.spelling import digest, serialise
from sanflow.cli import app

from .conftest import fails


@pytest.fixture
def altered(bundle: Path) -> Path:
    """A bundle with one changed byte in its graph."""
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    return bundle


@pytest.fixture
def untrue(bundle: Path) -> Path:
    """A bundle whose goldens say something else than its graph, with everything rehashed."""
    opened = Bundle.open(bundle)
    golden = tuple(replace(g, score=3 * g.score + 1) for g in opened.manifest.golden)
    changed = replace(opened.manifest, golden=golden)
    changed = replace(changed, digest=digest(changed))
    (bundle / "manifest.json").write_bytes(serialise(changed))
    Bundle.open(bundle)
    return bundle


@pytest.mark.parametrize("command", ["infer", "verify"])
def test_images_that_are_not_there(command: str, tiny_bundle: Path, tmp_path: Path) -> None:
    flag = "--source" if command == "infer" else "--data"
    out = ["--out", tmp_path / "out"] if command == "infer" else []
    assert "no such file" in fails(2, command, tiny_bundle, flag, tmp_path / "absent", *out)


def test_infer_does_not_overwrite_results(tiny_bundle: Path, parts: Path, tmp_path: Path) -> None:
    words = ["infer", str(tiny_bundle), "--source", str(parts / "test/dent"), "--out"]
    assert CliRunner().invoke(app, [*words, str(tmp_path / "out")]).exit_code == 0
    assert "--force" in fails(2, *words, tmp_path / "out")


@pytest.mark.parametrize("command", ["infer", "run"])
@pytest.mark.parametrize("inside", ["", "results", "golden/deep"])
def test_nothing_is_written_into_the_bundle(
    command: str, inside: str, tiny_bundle: Path, parts: Path
) -> None:
    """One file more, and nothing would open it again."""
    before = sorted(tiny_bundle.rglob("*"))
    source = ["--source", parts / "test/dent"] if command == "infer" else ["--source", "sim:"]
    words = [command, tiny_bundle, *source, "--out", tiny_bundle / inside]
    deadline = ["--deadline", "1s"] if command == "run" else ["--force"]
    assert "lies in the bundle" in fails(2, *words, *deadline)
    assert sorted(tiny_bundle.rglob("*")) == before


def test_a_bundle_is_not_evaluated_on_what_its_threshold_rests_on(
    tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    shutil.copytree(parts / "train", tmp_path / "train")
    shutil.copytree(parts / "calibrate", tmp_path / "test")
    said = fails(2, "evaluate", tiny_bundle, tmp_path)
    assert "24 of 24 test images were used to make this model" in said
    assert "(calibrate)" in said


def test_verify_refuses_a_run_without_images_for_it(tiny_bundle: Path, tiny_run: Path) -> None:
    assert "without --data" in fails(2, "verify", tiny_bundle, "--run", tiny_run)


def test_doctor_says_at_once_that_its_file_is_a_folder(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanflow.runtime.doctor.doctor", lambda *given, **more: pytest.fail("ran"))
    assert "is a folder" in fails(2, "doctor", tiny_bundle, "--out", tmp_path)


def test_threshold_refuses_options_that_contradict(tiny_bundle: Path) -> None:
    assert "choose one" in fails(
        2, "threshold", tiny_bundle, "--value", 1, "--false-alarm-rate", 0.1
    )
    assert "--confidence" in fails(2, "threshold", tiny_bundle, "--confidence", 0.9)


def test_a_goal_without_a_search(tiny_bundle: Path) -> None:
    assert "--tune" in fails(2, "bench", tiny_bundle, "--goal", "throughput")


def test_tuning_chooses_the_threads_itself() -> None:
    assert "leave it out" in fails(2, "bench", "b", "--tune", "--threads", 2)


def test_infer_goes_on_past_a_bad_image_and_says_so(
    tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(parts / "test" / "dent", tmp_path / "images")
    (source / "001.png").write_bytes((source / "001.png").read_bytes()[:100])
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["infer", str(tiny_bundle), "--source", str(source), "--out", str(out), "--json"]
    )
    assert done.exit_code == 3
    assert json.loads(done.stdout)["no_decision"] == 1
    assert "no decision on 1 images" in done.stderr
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["000.png", "001.png", "002.png"]
    assert lines[1]["verdict"] == "NO-DECISION"
    assert "truncated" in lines[1]["detail"]


@pytest.mark.parametrize("command", ["threshold", "verify", "infer", "bench", "evaluate"])
def test_an_altered_bundle(command: str, altered: Path, parts: Path, tmp_path: Path) -> None:
    rest: dict[str, list[object]] = {
        "infer": ["--source", parts, "--out", tmp_path / "out"],
        "evaluate": [parts],
    }
    message = fails(4, command, altered, *rest.get(command, []))
    assert "model.onnx" in message
    assert "sha256" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    assert "manifest.json" in fails(4, "verify", tmp_path)


def test_an_unknown_engine(tiny_bundle: Path) -> None:
    assert "did you mean 'openvino'" in fails(2, "verify", tiny_bundle, "--engine", "openvno")


@pytest.mark.parametrize("command", ["verify", "infer", "bench", "evaluate"])
def test_an_engine_that_is_not_there(
    command: str, tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    rest: dict[str, list[object]] = {
        "infer": ["--source", parts, "--out", tmp_path / "out"],
        "evaluate": [parts],
    }
    message = fails(5, command, tiny_bundle, *rest.get(command, []), "--engine", "tensorrt")
    assert "tensorrt" in message


def test_an_engine_that_says_something_else(untrue: Path, parts: Path, tmp_path: Path) -> None:
    assert "golden" in fails(6, "verify", untrue)
    fails(6, "infer", untrue, "--source", parts / "test", "--out", tmp_path / "out")
    for command, key in (("verify", "passed"), ("doctor", "exit_code")):
        done = CliRunner().invoke(app, [command, str(untrue), "--json"])
        assert done.exit_code == 6
        assert json.loads(done.stdout)[key] == {"passed": False, "exit_code": 6}[key]
