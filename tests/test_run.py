"""The run folder: what is written comes back, and what is no run is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from sanflow.config import RunConfig
from sanflow.data.config import DataConfig
from sanflow.errors import ConfigError, InputError
from sanflow.imaging import PixelPath, Roi
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.model.weights import WeightsInfo
from sanflow.run import (
    DataRecord,
    Progress,
    RunRecord,
    open_run,
    replace_file,
    write_model,
    write_run,
)

CONFIG = RunConfig(
    model=SanflowConfig(
        extractor="resnet18", height=64, width=96, position_dim=8, blocks=1, head_width=2
    ),
    data=DataConfig(roi=Roi(1, 2, 30, 40)),
    weights="none",
)
RECORD = RunRecord(
    config=CONFIG,
    data=DataRecord(
        "parts", "mvtec", "ab" * 32, {"train": (("good/ä.png", "cd" * 32),), "test": ()}, (50, 60)
    ),
    weights=WeightsInfo("none"),
    progress=Progress(3, finished=True),
)


@pytest.fixture(scope="module")
def model() -> SANFlow:
    return SANFlow(CONFIG.model, seed=5).eval()


def test_what_is_written_comes_back(tmp_path: Path, model: SANFlow) -> None:
    written = write_run(tmp_path / "a" / "run", RECORD, model)
    run = open_run(tmp_path / "a" / "run")
    assert run == written
    assert run.record == RECORD
    assert run.config == CONFIG
    assert run.pixel_path == PixelPath(64, 96, Roi(1, 2, 30, 40), (50, 60))
    assert run.record.versions["torch"] == torch.__version__
    loaded = run.model()
    assert not loaded.training
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(images)[1], model(images)[1])
    modes = {p.stat().st_mode for p in run.path.iterdir()}
    assert len(modes) == 1
    assert sorted(p.name for p in run.path.iterdir()) == ["model.safetensors", "run.json"]


def test_the_model_alone_can_be_replaced(tmp_path: Path) -> None:
    model = SANFlow(CONFIG.model)
    run = write_run(tmp_path, RECORD, model)
    model.level_max.fill_(2.5)
    write_model(run.path, model)
    assert run.model().level_max.tolist() == [2.5, 2.5, 2.5]


def test_a_disk_that_is_full_is_said_and_the_old_model_stays(
    tmp_path: Path, model: SANFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, RECORD, model)
    words = "Error while serializing: I/O error: No space left on device (os error 28)"

    def refuse(reason: str) -> None:
        def save(*_: object) -> None:
            raise SafetensorError(reason)

        monkeypatch.setattr("sanflow.run.save_file", save)

    refuse(words)
    expected = r"model\.safetensors: cannot be written: No space left on device$"
    with pytest.raises(InputError, match=expected):
        write_model(run.path, model)
    refuse("Error while serializing: of our own making")
    with pytest.raises(SafetensorError, match="of our own making"):
        write_model(run.path, model)
    run.model()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run: no run\.json in it; make one with"):
        open_run(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "run.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="is not JSON"):
            open_run(tmp_path)


def test_a_foreign_record_is_refused(tmp_path: Path, model: SANFlow) -> None:
    write_run(tmp_path, RECORD, model)
    values = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    for change, words in (
        ({"schema": "sanflow.run/1"}, "'sanflow.run/1' is not one of 'sanflow.run/2'"),
        ({"progres": {}}, "unknown field 'progres'; did you mean 'progress'"),
    ):
        (tmp_path / "run.json").write_text(json.dumps({**values, **change}), encoding="utf-8")
        with pytest.raises(ConfigError, match=words):
            open_run(tmp_path)


def test_a_missing_damaged_or_other_model_is_refused(tmp_path: Path, model: SANFlow) -> None:
    run = write_run(tmp_path, RECORD, model)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be used"):
        run.model()
    other = SanflowConfig(
        extractor="resnet18", height=64, width=96, position_dim=12, blocks=1, head_width=2
    )
    write_model(tmp_path, SANFlow(other))
    with pytest.raises(InputError, match="cannot be used"):
        run.model()
    path.unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors; train it first"):
        run.model()


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")

    def crash(partial: Path) -> None:
        partial.write_text("half", encoding="utf-8")
        raise OSError("disk full")

    with pytest.raises(InputError, match="file: cannot be written: disk full"):
        replace_file(path, crash)
    assert path.read_text(encoding="utf-8") == "old"
    replace_file(path, lambda partial: partial.write_text("new", encoding="utf-8"))
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
