"""Every way a command can fail: the documented exit code, one message, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.bundle import Bundle
from sanflow.bundle.spelling import digest, serialise
from sanflow.cli import app
from sanflow.runtime.ort import OrtEngine
from sanflow.training import checkpoint
from sanflow.training.checkpoint import Checkpoint


def fails(code: int, *words: object) -> str:
    """The message of a command that must end with this code and without a traceback."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert done.stderr.strip()
    return " ".join(done.stderr.split())


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


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


# 2: input and configuration

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


@pytest.mark.parametrize("command", ["calibrate", "export"])
def test_a_data_set_that_moved(command: str, tiny_run: Path, tmp_path: Path) -> None:
    out = [] if command == "calibrate" else ["--out", tmp_path / "b", "--false-alarm-rate", 0.1]
    found = fails(2, command, tiny_run, "--data", tmp_path / "gone", *out)
    assert "--data" in found


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "--out was not given: say where to write, or --explain to write nothing"),
        (["--explain", "--precision", "int4"], "'int4' is not one of fp32, fp16, bf16, int8, auto"),
        (["--explain", "--precision", "bf16"], "bf16 needs the target openvino, not onnx"),
        (["--explain", "--defects", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_export_refuses_a_precision_that_cannot_be(
    tiny_run: Path, words: list[str], reason: str
) -> None:
    assert reason in fails(2, "export", tiny_run, *words)


def test_export_refuses_an_unknown_target(tiny_run: Path, tmp_path: Path) -> None:
    words = ("export", tiny_run, "--out", tmp_path / "b", "--target", "tflite")
    assert "'tflite' is not one of onnx, openvino" in fails(2, *words)


def test_a_bundle_is_not_evaluated_on_what_its_threshold_rests_on(
    tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    shutil.copytree(parts / "train", tmp_path / "train")
    shutil.copytree(parts / "calibrate", tmp_path / "test")
    said = fails(2, "evaluate", tiny_bundle, tmp_path)
    assert "24 of 24 test images were used to make this model" in said
    assert "(calibrate)" in said


def test_threshold_refuses_options_that_contradict(tiny_bundle: Path) -> None:
    assert "choose one" in fails(
        2, "threshold", tiny_bundle, "--value", 1, "--false-alarm-rate", 0.1
    )
    assert "--confidence" in fails(2, "threshold", tiny_bundle, "--confidence", 0.9)


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


def test_a_goal_without_a_search(tiny_bundle: Path) -> None:
    assert "--tune" in fails(2, "bench", tiny_bundle, "--goal", "throughput")


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


def test_an_unknown_engine(tiny_bundle: Path) -> None:
    assert "did you mean 'openvino'" in fails(2, "verify", tiny_bundle, "--engine", "openvno")


@pytest.mark.parametrize(
    "words",
    [["trian"], ["train"], ["infer", "b"], ["verify", "b", "--engin", "x"], ["bench", "b", "c"]],
    ids=" ".join,
)
def test_usage_errors(words: list[str]) -> None:
    assert fails(2, *words)


def test_tuning_chooses_the_threads_itself() -> None:
    assert "leave it out" in fails(2, "bench", "b", "--tune", "--threads", 2)


def test_demo_wants_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert "not empty" in fails(2, "demo", "--quick", "--out", tmp_path)


def test_an_output_that_cannot_be_written(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(2, "synth", parts, "--size", 64, "--out", tmp_path / "file" / "sheet.png")


# 3: finished, with undecided images


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


# 4: a bundle is refused


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


def test_export_leaves_a_foreign_folder_alone(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert "left alone" in fails(2, "export", tiny_run, "--out", tmp_path, "--force")
    assert (tmp_path / "letter.txt").read_text() == "mine"


# 5: engines


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


# 6: parity


def test_an_engine_that_says_something_else(untrue: Path, parts: Path, tmp_path: Path) -> None:
    assert "golden" in fails(6, "verify", untrue)
    fails(6, "infer", untrue, "--source", parts / "test", "--out", tmp_path / "out")
    for command, key in (("verify", "passed"), ("doctor", "exit_code")):
        done = CliRunner().invoke(app, [command, str(untrue), "--json"])
        assert done.exit_code == 6
        assert json.loads(done.stdout)[key] == {"passed": False, "exit_code": 6}[key]


# 7: the false-alarm bound


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


# 1 and 130: what nobody planned


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make opening a bundle raise an exception of choice."""

    def raises(error: BaseException) -> None:
        def opened(*_: object) -> None:
            raise error

        monkeypatch.setattr(Bundle, "open", opened)

    return raises


def test_the_unexpected_is_one_line_and_the_way_to_its_traceback(
    opening: Callable[[BaseException], None],
) -> None:
    opening(ZeroDivisionError("by nothing"))
    message = fails(1, "threshold", "bundle")
    assert "unexpected ZeroDivisionError: by nothing" in message
    assert "--debug" in message
    done = CliRunner().invoke(app, ["--debug", "threshold", "bundle"])
    assert isinstance(done.exception, ZeroDivisionError)


def test_a_missing_package_names_its_extra(opening: Callable[[BaseException], None]) -> None:
    opening(ModuleNotFoundError("No module named 'onnx.helper'", name="onnx.helper"))
    assert 'pip install "sanflow[train]"' in fails(1, "threshold", "bundle")


def test_a_system_error_is_input(opening: Callable[[BaseException], None]) -> None:
    opening(PermissionError(13, "Permission denied", "bundle/manifest.json"))
    assert "bundle/manifest.json: Permission denied" in fails(2, "threshold", "bundle")


def test_ctrl_c_is_130(opening: Callable[[BaseException], None]) -> None:
    opening(KeyboardInterrupt())
    assert "interrupted" in fails(130, "threshold", "bundle")


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("layout", ["bundle", "triton"])
def test_a_signal_ends_an_export_with_nothing_left(
    layout: str,
    number: signal.Signals,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While an engine replays the staged bundle: what it raises is made an error of the engine."""
    staged: list[Path] = []

    def run(engine: OrtEngine, images: object) -> object:
        staged.extend(tmp_path.rglob("model.onnx"))
        os.kill(os.getpid(), number)
        return engine

    monkeypatch.setattr(OrtEngine, "_run", run)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        words = ("export", tiny_run, "--out", tmp_path / "b", "--layout", layout)
        assert f"{number.name}: export stopped; {tmp_path / 'b'} is as it was" in fails(130, *words)
    finally:
        signal.signal(number, before)
    assert len(staged) == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_it_is_loaded_is_130(repository: Path) -> None:
    code = (
        "import os, runpy, signal, sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "runpy.run_module('sanflow', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, stderr=subprocess.PIPE)
    assert done.returncode == 130
    assert done.stderr == b"error: interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_with_what_is_done_kept(
    number: signal.Signals,
    parts: Path,
    tiny_options: list[str],
    repository: Path,
    tmp_path: Path,
) -> None:
    """In a real process, after at least one epoch; then it can be resumed."""
    run = tmp_path / "run"
    words = [sys.executable, "-m", "sanflow", "train", str(parts), "--out", str(run)]
    words += [*tiny_options, "--epochs", "500"]
    process = subprocess.Popen(words, cwd=repository, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (run / "metrics.csv").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 130, message
    assert "--resume" in message
    assert "Traceback" not in message
    assert (run / "metrics.csv").read_text().count("\n") >= 2
