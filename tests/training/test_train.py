"""From a folder of parts to a run: what is written, what is refused, and how it stops."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanflow.config import PretextConfig, RunConfig
from sanflow.data.layout import open_dataset
from sanflow.errors import DataError, InputError, Interrupted
from sanflow.imaging import read
from sanflow.run import MODEL, Compute, open_run
from sanflow.training import checkpoint
from sanflow.training.log import METRICS, TENSORBOARD, Status
from sanflow.training.presets import load_config
from sanflow.training.train import train

STEPS = 3


def rows(run: Path) -> list[dict[str, str]]:
    with (run / METRICS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_holds_everything_that_shaped_it(
    parts: Path, tmp_path: Path, config: RunConfig, weights: Path
) -> None:
    config = replace(config, optim=replace(config.optim, learning_rate=2e-3))
    (parts / "manifest.csv").write_text("path,group\ncalibrate/good/001.png,twice\n")
    seen: list[Status] = []
    run = train(parts, tmp_path / "run", config, device="cpu", progress=seen.append)
    assert open_run(run.path) == run

    record = run.record
    assert record.config == config
    assert record.progress.finished
    assert record.progress.epochs_done == 4
    assert record.compute == Compute("cpu", "fp32", 1)
    assert record.versions["torch"] == torch.__version__
    assert record.weights.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    dataset = open_dataset(parts, config.data)
    for role, samples in dataset.roles().items():
        expected = {
            dataset.relative(s.path): hashlib.sha256(s.path.read_bytes()).hexdigest()
            for s in samples
        }
        assert dict(record.data.roles[role]) == expected

    assert record.data.parts == {"calibrate/good/001.png": "twice"}
    height, width = read(parts / "calibrate" / "good" / "001.png").shape[:2]
    assert record.data.size == (height, width)

    assert [int(r["epoch"]) for r in rows(run.path)] == [1, 2, 3, 4]
    assert float(rows(run.path)[-1]["loss"]) < float(rows(run.path)[0]["loss"])
    assert list((run.path / TENSORBOARD).iterdir())
    assert {p.name for p in run.path.iterdir()} == {"run.json", MODEL, METRICS, TENSORBOARD}

    steps = [s for s in seen if s.phase == "train"]
    assert [s.done for s in steps] == list(range(1, 4 * STEPS + 1))
    assert {s.total for s in steps} == {4 * STEPS}
    assert [s.epoch for s in steps] == [e for e in (1, 2, 3, 4) for _ in range(STEPS)]
    assert steps[-1].eta == 0
    assert all(s.eta is not None and s.loss is not None and s.learning_rate for s in steps)
    phases = list(dict.fromkeys(s.phase for s in seen))
    assert phases == ["check", "scale", "train"]

    score, maps = run.model()(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert torch.isfinite(score).all()
    assert maps.shape == (1, 64, 64)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    config = replace(config, optim=replace(config.optim, epochs=1))
    other = replace(config, optim=replace(config.optim, seed=1))
    threaded = replace(config, optim=replace(config.optim, workers=2))
    files = [
        (train(parts, tmp_path / str(i), c, device="cpu").path / MODEL).read_bytes()
        for i, c in enumerate((config, threaded, other))
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_without_weights_the_extractor_is_taught_first(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    config = replace(
        config,
        weights="none",
        pretext=PretextConfig(steps=2, batch=4),
        optim=replace(config.optim, epochs=1),
    )
    seen: list[str] = []
    one, two = (
        train(
            parts,
            tmp_path / name,
            config,
            device="cpu",
            progress=lambda status: seen.append(status.phase),
        )
        for name in ("one", "two")
    )
    assert "teach" in seen
    assert one.record.weights.source == "none"
    assert (one.path / MODEL).read_bytes() == (two.path / MODEL).read_bytes()


def test_bad_images_stop_training_before_it_begins(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    (parts / "train/good/empty.png").touch()
    cut = parts / "train/good/000.png"
    cut.write_bytes(cut.read_bytes()[:-200])
    out = tmp_path / "run"
    with pytest.raises(DataError) as refused:
        train(parts, out, config, device="cpu")
    for word in ("empty.png", "000.png", "--skip-bad"):
        assert word in str(refused.value)
    assert not out.exists()

    config = replace(config, optim=replace(config.optim, epochs=1))
    run = train(parts, out, config, skip_bad=True, device="cpu")
    names = {name for name, _ in run.record.data.roles["train"]}
    assert names.isdisjoint({"train/good/empty.png", "train/good/000.png"})
    assert "train/good/001.png" in names


@pytest.mark.parametrize("role", ["train", "calibrate"])
def test_without_the_bad_images_there_must_be_parts_for_each_role(
    parts: Path, tmp_path: Path, config: RunConfig, role: str
) -> None:
    """Not a traceback, and not a model that can never be calibrated."""
    for path in (parts / role / "good").iterdir():
        path.write_bytes(b"")
    out = tmp_path / "run"
    with pytest.raises(DataError, match=f"no good part is left to {role} with"):
        train(parts, out, config, skip_bad=True, device="cpu")
    assert not out.exists()


def test_a_finished_run_is_returned_on_resume_and_never_overwritten(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    config = replace(config, optim=replace(config.optim, epochs=1))
    run = train(parts, tmp_path / "run", config, device="cpu")
    before = {p.name: p.stat().st_mtime_ns for p in run.path.iterdir()}
    with pytest.raises(InputError, match="already holds a finished run"):
        train(parts, run.path, config, device="cpu")
    assert train(parts, run.path, resume=True, device="cpu") == run
    assert {p.name: p.stat().st_mtime_ns for p in run.path.iterdir()} == before


def test_stopped_before_there_is_a_run_it_says_to_begin_again(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    def interrupt(status: Status) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="before there was anything to keep; begin again"):
        train(parts, tmp_path / "run", config, device="cpu", progress=interrupt)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_at_most_the_epoch_in_progress(
    parts: Path, tmp_path: Path, config: RunConfig, number: signal.Signals
) -> None:
    def interrupt(status: Status) -> None:
        if status.phase == "train" and status.done == 2 * STEPS + 1:
            os.kill(os.getpid(), number)

    whole = train(parts, tmp_path / "whole", config, device="cpu")
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"finished epochs are kept in .*--resume"):
        train(parts, out, config, device="cpu", progress=interrupt)
    assert [r["epoch"] for r in rows(out)] == ["1", "2"]
    assert not open_run(out).record.progress.finished

    seen: list[Status] = []
    train(parts, out, resume=True, device="cpu", progress=seen.append)
    assert [s.done for s in seen if s.phase == "train"] == list(range(2 * STEPS + 1, 4 * STEPS + 1))
    assert [r["epoch"] for r in rows(out)] == ["1", "2", "3", "4"]
    assert [r["loss"] for r in rows(out)] == [r["loss"] for r in rows(whole.path)]
    assert (out / MODEL).read_bytes() == (whole.path / MODEL).read_bytes()


@pytest.mark.parametrize(
    ("moment", "file", "kept"),
    [(("scale", 0), MODEL, []), (("train", 2), checkpoint.NAME, ["1"])],
)
def test_a_full_disk_loses_at_most_the_epoch_in_progress(
    parts: Path,
    small_disk: Path,
    fill: Callable[[], Path],
    config: RunConfig,
    moment: tuple[str, int],
    file: str,
    kept: list[str],
) -> None:
    def filling(status: Status) -> None:
        if (status.phase, status.epoch) == moment:
            fill()

    out = small_disk / "run"
    said = rf"run/{file}: cannot be written: No space left on device$"
    with pytest.raises(InputError, match=said):
        train(parts, out, config, device="cpu", progress=filling)
    assert not kept or [r["epoch"] for r in rows(out)] == kept

    fill().unlink()
    seen: list[Status] = []
    train(parts, out, config, resume=True, device="cpu", progress=seen.append)
    assert min(s.epoch for s in seen if s.phase == "train") == len(kept) + 1
    assert [r["epoch"] for r in rows(out)] == ["1", "2", "3", "4"]


def test_other_images_than_the_run_began_with_are_refused(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    def interrupt(status: Status) -> None:
        if status.phase == "train" and status.done == STEPS + 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(parts, tmp_path / "run", config, device="cpu", progress=interrupt)
    (parts / "train/good/000.png").unlink()
    with pytest.raises(DataError, match=r"1 missing in train \(train/good/000\.png\)"):
        train(parts, tmp_path / "run", resume=True, device="cpu")


def test_a_broken_checkpoint_is_named(parts: Path, tmp_path: Path, config: RunConfig) -> None:
    def interrupt(status: Status) -> None:
        if status.phase == "train" and status.done == STEPS + 1:
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(parts, out, config, device="cpu", progress=interrupt)
    (out / checkpoint.NAME).write_bytes(b"not one")
    with pytest.raises(InputError, match=r"checkpoint\.pt: not a checkpoint"):
        train(parts, out, resume=True, device="cpu")


def test_missing_weights_are_told_before_the_images_are_read(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    seen: list[Status] = []
    with pytest.raises(InputError, match=r"weights 'absent\.pth': no such file"):
        train(parts, tmp_path / "run", replace(config, weights="absent.pth"), progress=seen.append)
    assert not seen
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_an_unknown_device_is_refused_before_anything_is_written(
    parts: Path, tmp_path: Path, config: RunConfig, device: str
) -> None:
    with pytest.raises(InputError, match=device):
        train(parts, tmp_path / "run", config, device=device)
    assert not (tmp_path / "run").exists()


@pytest.mark.real_parts
def test_real_tiles_with_real_weights_become_likelier(shared: Path, tmp_path: Path) -> None:
    """Grey JPEGs of many sizes, ImageNet weights that end with layer3, the `edge` preset, small."""
    tiles = sorted((shared / "data/mtd/train/good").iterdir())[::32]
    table = tmp_path / "tiles.csv"
    (tmp_path / "tiles").symlink_to(tiles[0].parent)
    lines = [f"tiles/{tile.name},train" for tile in tiles]
    table.write_text("\n".join(["path,split", *lines]), encoding="utf-8")
    config = load_config(
        "edge",
        None,
        {
            "model.height": 64,
            "model.width": 64,
            "model.feature_scale": "none",
            "optim.epochs": 6,
            "weights": str(shared / "weights/resnet18_imagenet_l123.safetensors"),
        },
    )
    run = train(table, tmp_path / "run", config, device="cpu")
    nll = [float(row["nll"]) for row in rows(run.path)]
    assert nll[-1] < nll[0] - 0.5
    assert len(run.record.data.roles["train"]) + len(run.record.data.roles["calibrate"]) == 24
