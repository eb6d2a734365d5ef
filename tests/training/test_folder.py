"""A run is never overwritten, and continued only with its own configuration and images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sanflow.config import RunConfig
from sanflow.errors import ConfigError, DataError, InputError
from sanflow.model.sanflow import SANFlow
from sanflow.model.weights import WeightsInfo
from sanflow.run import DataRecord, Progress, Run, RunRecord, write_run
from sanflow.training.folder import claim, continued_config, given_back, require_same_data

DATA = DataRecord("parts", "mvtec", "f0", {"train": (("a.png", "1"), ("b.png", "2")), "test": ()})


def a_run(out: Path, config: RunConfig, finished: bool = False) -> Run:
    progress = Progress(2 if finished else 0, finished)
    record = RunRecord(config, DATA, WeightsInfo("none"), progress)
    return write_run(out, record, SANFlow(config.model))


def test_a_new_or_empty_folder_begins_a_run(tmp_path: Path) -> None:
    assert claim(tmp_path / "new" / "run", resume=False) is None
    assert (tmp_path / "new" / "run").is_dir()
    assert claim(tmp_path / "new" / "run", resume=True) is None


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_is_overwritten_by_nothing(tmp_path: Path, config: RunConfig, finished: bool) -> None:
    run = a_run(tmp_path / "run", config, finished)
    before = {p: p.read_bytes() for p in run.path.iterdir()}
    state = "a finished" if finished else "an unfinished"
    with pytest.raises(InputError, match=f"{state} run; continue it with --resume"):
        claim(run.path, resume=False)
    assert claim(run.path, resume=True) == run
    assert {p: p.read_bytes() for p in run.path.iterdir()} == before


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"no run \(thesis\.txt\)"):
            claim(tmp_path, resume)
    with pytest.raises(InputError, match="is a file"):
        claim(tmp_path / "thesis.txt", resume=False)


@pytest.mark.parametrize(("found", "wrote"), [(False, False), (False, True), (True, False)])
def test_a_failure_leaves_no_empty_folder_of_its_own(
    tmp_path: Path, found: bool, wrote: bool
) -> None:
    out = tmp_path / "run"
    if found:
        out.mkdir()

    def training() -> None:
        with given_back(out):
            claim(out, resume=False)
            if wrote:
                (out / "config.toml").write_text("seed = 0", encoding="utf-8")
            raise DataError("no images")

    with pytest.raises(DataError):
        training()
    assert out.exists() == (found or wrote)


def test_what_a_kill_before_the_record_left_is_begun_anew_on_resume(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"whole, but its record is missing")
    (tmp_path / ".run.json.17.partial").write_bytes(b"half")
    with pytest.raises(InputError, match="no run"):
        claim(tmp_path, resume=False)
    assert claim(tmp_path, resume=True) is None
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_written_files_are_swept_on_resume(tmp_path: Path, config: RunConfig) -> None:
    run = a_run(tmp_path / "run", config)
    (run.path / ".checkpoint.pt.17.partial").write_bytes(b"half")
    claim(run.path, resume=True)
    assert not list(run.path.glob(".*"))


def test_the_configuration_must_be_the_runs_own(tmp_path: Path, config: RunConfig) -> None:
    run = a_run(tmp_path / "run", config)
    assert continued_config(None, run) == continued_config(config, run) == config
    faster = replace(config, optim=replace(config.optim, workers=2))
    assert continued_config(faster, run).optim.workers == 2
    other = replace(
        config,
        optim=replace(config.optim, epochs=9),
        model=replace(config.model, blocks=3),
    )
    with pytest.raises(ConfigError) as refused:
        continued_config(other, run)
    assert "optim.epochs = 9 (the run has 4)" in str(refused.value)
    assert "model.blocks = 3 (the run has 2)" in str(refused.value)
    assert "taps" not in str(refused.value)


def test_the_images_must_be_the_runs_own(tmp_path: Path, config: RunConfig) -> None:
    run = a_run(tmp_path / "run", config)
    require_same_data(DATA, run)
    roles = {"train": (("a.png", "9"), ("c.png", "3")), "test": (("d.png", "4"),)}
    with pytest.raises(DataError) as refused:
        require_same_data(replace(DATA, fingerprint="f1", roles=roles), run)
    for change in ("1 missing in train (b.png)", "1 new in train (c.png)"):
        assert change in str(refused.value)
    for change in ("1 changed in train (a.png)", "1 new in test (d.png)"):
        assert change in str(refused.value)
