"""Every command does its work, prints JSON that scripts can read, and documents itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from sanflow import __version__, schema
from sanflow.calibration.threshold import Threshold
from sanflow.cli import app
from sanflow.cli.options import run_config
from sanflow.imaging import Roi

COMMANDS = (
    "check synth train calibrate evaluate demo export threshold verify build infer bench doctor "
    "run unpack sweep"
).split()


def sanflow(*words: object) -> Result:
    """The command in this process, which must succeed."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def document(done: Result) -> Any:
    """The JSON on standard output, which must hold nothing else."""
    return json.loads(done.stdout)


def test_the_commands_are_those_of_the_contract() -> None:
    group: Any = typer.main.get_command(app)
    assert set(group.commands) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_all_its_options(command: str) -> None:
    group: Any = typer.main.get_command(app)
    done = sanflow(command, "--help")
    assert group.commands[command].help
    for parameter in group.commands[command].params:
        assert parameter.name == "help" or parameter.help, f"{command}: {parameter.name}"
    assert "Usage:" in done.stdout


def test_help_fills_a_terminals_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paragraph breaks where the terminal ends, not where the docstring's lines do."""
    monkeypatch.setenv("COLUMNS", "80")
    text = sanflow("run", "--help").stdout.partition("Arguments")[0]
    lines = [line.strip() for line in text.splitlines()]
    first = next(at for at, line in enumerate(lines) if line.startswith("Late, broken"))
    paragraph = lines[first : lines.index("", first)]
    assert all(len(line) > 60 for line in paragraph[:-1])


def test_version() -> None:
    assert sanflow("--version").stdout == f"sanflow {__version__}\n"


def test_the_shell_completes_commands(repository: Path) -> None:
    environment = {
        **os.environ,
        "_SANFLOW_COMPLETE": "complete_bash",
        "COMP_WORDS": "sanflow thr",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from sanflow.cli import main; main()"],
        env=environment,
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["threshold"], done.stderr


def test_a_flag_wins_over_set_over_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        'weights = "none"\n[model]\nextractor = "resnet34"\nblocks = 3\nclamp = 1.5\n'
        "[optim]\nepochs = 7\n"
    )
    config = run_config(
        "edge",
        file,
        ["model.blocks=4", "model.clamp=1.25", "model.taps=[8, 16]", "data.layout=folder"],
        size="128x192",
        roi="1, 2,30,40",
        model__clamp=1.0,
        weights=None,
    )
    assert config.model.position_dim == run_config("edge").model.position_dim
    assert (config.weights, config.model.extractor, config.optim.epochs) == ("none", "resnet34", 7)
    assert (config.model.blocks, config.model.clamp, config.model.taps) == (4, 1.0, (8, 16))
    assert (config.model.height, config.model.width) == (128, 192)
    assert (config.data.roi, config.data.layout) == (Roi(1, 2, 30, 40), "folder")


def test_train_writes_a_calibrated_run_with_its_configuration(tiny_run: Path) -> None:
    record = json.loads((tiny_run / "run.json").read_text())
    assert record["progress"] == {"epochs_done": 1, "finished": True}
    assert record["config"]["model"]["extractor"] == "resnet18"
    assert record["config"]["model"]["height"] == record["config"]["model"]["width"] == 64
    assert record["config"]["weights"] == record["weights"]["source"] == "none"
    assert len(json.loads((tiny_run / "calibration.json").read_text())["images"]) == 24


def test_resume_takes_the_configuration_of_the_run(tiny_run: Path, parts: Path) -> None:
    """The preset's defaults must not be asked of a tiny run, whatever else is given."""
    for given in ([], ["--epochs", 1, "--method", "sanflow", "--set", "model.blocks=2"]):
        done = sanflow("train", parts, "--out", tiny_run, "--resume", *given)
        assert "1 epoch trained" in done.stdout


def test_check_reports_as_json(parts: Path) -> None:
    found = document(sanflow("check", parts, "--json"))
    assert found["images"] == {"train": 16, "calibrate": 24, "test": 12}
    assert found["findings"] == []


def test_synth_draws_a_sheet(parts: Path, tmp_path: Path) -> None:
    from sanflow.imaging import read

    sheets = [tmp_path / name for name in ("a.png", "b.png", "new/c.png")]
    for sheet, seed in zip(sheets, (1, 1, 2), strict=True):
        sanflow("synth", parts, "--out", sheet, "--size", 64, "--rows", 2, "--seed", seed)
    assert read(sheets[0]).shape[0] >= 128
    assert sheets[0].read_bytes() == sheets[1].read_bytes() != sheets[2].read_bytes()


def test_calibrate_prints_the_guarantee(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    found = document(sanflow("calibrate", run, "--false-alarm-rate", 0.2, "--json"))
    threshold = schema.load(Threshold, found["threshold"])
    assert threshold.parts == len(found["scores"]) == 24
    assert threshold.expected_rate <= 0.2
    assert sum(score > threshold.value for score in found["scores"]) == 4  # 25 x 0.2 - 1
    done = sanflow("calibrate", run, "--false-alarm-rate", 0.2)
    assert "NG above" in done.stdout
    assert "the rate is not kept" in done.stderr
    assert "not kept" not in sanflow("calibrate", run, "--device", "auto").stderr


def test_without_a_rate_the_best_bound_is_used_and_said(tiny_run: Path, tmp_path: Path) -> None:
    """24 held-out parts bound at 1 / 25; a bound of 1 % would need 99."""
    done = sanflow("export", tiny_run, "--out", tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["graphs"][0]["decision"]["false_alarm_rate"] == 0.04
    assert "4 %" in done.stderr
    assert "99 parts" in done.stderr


@pytest.mark.parametrize("subject", ["run", "bundle"])
def test_evaluate_a_run_and_a_bundle(
    subject: str, tiny_run: Path, tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    path = tiny_run if subject == "run" else tiny_bundle
    words = ("evaluate", path, parts, "--resamples", 20, "--out", tmp_path / "report")
    found = document(sanflow(*words, "--device", "auto", "--json"))
    assert (found["good"], found["defective"]) == (6, 6)
    assert {kind["label"] for kind in found["kinds"]} == {"scratch", "dent"}
    assert found["auroc"]["low"] <= found["auroc"]["value"] <= found["auroc"]["high"]
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text()) == found
    assert "<html" in (tmp_path / "report" / "report.html").read_text()
    assert "image AUROC" in sanflow(*words).stdout


def test_run_and_bundle_measure_alike(tiny_run: Path, tiny_bundle: Path, parts: Path) -> None:
    """The same images, once by PyTorch and once by the exported engine."""
    by_torch, by_engine = (
        document(sanflow("evaluate", path, parts, "--resamples", 20, "--json"))
        for path in (tiny_run, tiny_bundle)
    )
    assert by_torch["at_threshold"]["decision"] == by_engine["at_threshold"]["decision"]
    for one, other in zip(by_torch["images"], by_engine["images"], strict=True):
        assert one["path"] == other["path"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


def test_threshold_shows_and_changes_only_the_decision(bundle: Path) -> None:
    def graph() -> dict[str, Any]:
        found = json.loads((bundle / "manifest.json").read_text())
        (only,) = found.pop("graphs")
        return {**found, **only}

    before = graph()
    shown = document(sanflow("threshold", bundle, "--json"))
    assert shown["value"] == before["decision"]["threshold"]
    band = {"band_low", "band_high"}
    assert {n: shown[n] for n in band} == {n: before["decision"][n] for n in band}, "in force"
    assert graph() == before

    changed = document(sanflow("threshold", bundle, "--false-alarm-rate", 0.2, "--json"))
    after = graph()
    assert after["decision"]["threshold"] == changed["value"] < shown["value"]
    assert after["decision"]["false_alarm_rate"] == 0.2
    for field in before.keys() - {"decision", "digest"}:
        assert after[field] == before[field]

    value = changed["value"] + 1.0
    sanflow("threshold", bundle, "--value", value)
    decision = graph()["decision"]
    assert decision["threshold"] == value
    assert decision["false_alarm_rate"] is None
    assert decision["display_high"] == before["decision"]["display_high"]


def test_what_threshold_says_of_a_value_by_hand(bundle: Path) -> None:
    scores = json.loads((bundle / "manifest.json").read_text())["graphs"][0]["scores"]
    shown = sanflow("threshold", bundle)
    assert "asked" not in shown.stdout + shown.stderr
    set_by_rate = sanflow("threshold", bundle, "--false-alarm-rate", 0.21).stdout
    assert "at most 20 % (asked: 21 %)" in set_by_rate
    assert "It was chosen for at most 21 % of good parts" in sanflow("threshold", bundle).stdout
    between = (scores[0] + scores[-1]) / 2
    for value, words in (
        (1e9, f"above the score of every calibration part (at most {scores[-1]:.6g})"),
        (-1e9, f"below the score of every calibration part (at least {scores[0]:.6g})"),
        (between, ""),
    ):
        for options in (("--value", value), ()):
            done = sanflow("threshold", bundle, *options)
            assert words in " ".join(done.stderr.split())
            assert bool(done.stderr.strip()) == bool(words)
            assert "set by hand, and" in done.stdout
            assert "asked" not in done.stdout


def test_threshold_says_what_a_triton_server_still_reads(bundle: Path) -> None:
    (bundle.parent / "config.pbtxt").write_text("")
    assert "config.pbtxt" not in sanflow("threshold", bundle).stderr
    done = sanflow("threshold", bundle, "--false-alarm-rate", 0.2)
    assert f"{bundle.parent / 'config.pbtxt'} still has the old threshold" in done.stderr


def test_verify_compares_goldens_and_own_images(
    tiny_bundle: Path, tiny_run: Path, parts: Path
) -> None:
    found = document(
        sanflow("verify", tiny_bundle, "--data", parts / "test", "--run", tiny_run, "--json")
    )
    assert found["passed"]
    own = [c for c in found["comparisons"] if c["source"] == "images"]
    assert own
    assert all(c["images"] == 12 and not c["flips"] for c in own)
    assert {c["engine"] for c in own} == {"onnxruntime", "openvino"}
    table = sanflow("verify", tiny_bundle, "--engine", "onnxruntime").stdout
    assert "onnxruntime" in table
    assert "pass" in table
    assert "openvino" not in table


def test_verify_without_the_run_knows_calibration_images(tiny_bundle: Path, parts: Path) -> None:
    words = ("verify", tiny_bundle, "--engine", "onnxruntime", "--json", "--data")
    found = document(sanflow(*words, parts / "calibrate" / "good"))
    assert [c["images"] for c in found["comparisons"] if c["source"] == "images"] == [24]


def test_verify_names_some_of_the_images_that_it_skips(tiny_bundle: Path, parts: Path) -> None:
    """Not thousands: a whole data set is easily given."""
    words = ("verify", tiny_bundle, "--engine", "onnxruntime", "--data", parts)
    skipped = sanflow(*words).stderr.splitlines()
    named = document(sanflow(*words, "--json"))["skipped"]
    assert len(named) > 20
    assert skipped == [
        *(f"skipped {line}" for line in named[:20]),
        f"skipped {len(named) - 20} more; `sanflow verify --json` has all",
    ]


def test_explain_has_words_on_the_left(tiny_run: Path) -> None:
    found = sanflow("export", tiny_run, "--false-alarm-rate", 0.1, "--explain").stdout
    words = ("what it does", "linear layers are 1x1", "hard permutations are gathers")
    starts = {line.index(word) for word in words for line in found.splitlines() if word in line}
    assert len(starts) == 1


def test_infer_writes_a_line_and_an_overlay_per_image(
    tiny_bundle: Path, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "verdicts"
    words = ("infer", tiny_bundle, "--source", parts / "test", "--out", out, "--overlays", "all")
    summary = document(sanflow(*words, "--json"))
    assert summary["images"] == 12
    assert summary["ok"] + summary["ng"] == 12
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == len(list((out / "overlays").rglob("*.png"))) == 12
    assert "12 images" in sanflow(*words, "--force").stdout


def test_bench_and_doctor_report_as_json(tiny_bundle: Path, tmp_path: Path) -> None:
    quick = ("--seconds", 0.2, "--cold-starts", 1)
    bench = document(sanflow("bench", tiny_bundle, *quick, "--json"))
    assert bench["image_ms"]["p50"] > 0
    assert bench["cold_start"]["starts"] == 1
    doctor = document(sanflow("doctor", "--json", "--out", tmp_path / "new" / "doctor.json"))
    assert doctor == json.loads((tmp_path / "new" / "doctor.json").read_text())
    assert {"onnxruntime", "openvino"} <= set(doctor["engines"])


def test_bench_tunes_and_the_engine_is_used(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quick = ("--goal", "throughput", "--engine", "onnxruntime", "--seconds", 0.2)
    tuned = document(sanflow("bench", tiny_bundle, "--tune", *quick, "--json"))
    assert Path(tuned["stored"]).is_relative_to(tmp_path)
    assert tuned["ratio"] >= 1


def test_demo_leaves_a_report_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    said = sanflow("demo", "--quick", "--out", out).stdout
    assert "image AUROC" in said
    for name in ("report/report.html", "demo.png", "onnx/manifest.json", "openvino/manifest.json"):
        assert (out / name).is_file(), name
    lines = (out / "verdicts" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(list((out / "parts" / "test").rglob("*.png")))
