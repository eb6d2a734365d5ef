"""Calibrating a real (tiny) run: what is stored, what is recomputed, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sanflow.calibration.calibrate as room
from sanflow.calibration.calibrate import calibrate, load_calibration
from sanflow.errors import CalibrationError, ConfigError, DataError
from sanflow.imaging import pixel_sha256, write_png
from sanflow.run import Run, open_run, write_model


def test_level_maxima_and_scores_are_those_of_the_model(run: Run, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    got = calibrate(run, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (15, 15)
    model, pixels = run.model(), run.pixel_path
    train = [name for name, _ in run.record.data.roles["train"]]
    with torch.inference_mode():
        levels = [
            model.log_likelihoods(torch.from_numpy(pixels.load(tmp_path / "data" / n))[None])
            for n in train
        ]
        largest = [max(float(image[k].max()) for image in levels) for k in range(3)]
        assert got.level_max == pytest.approx(largest, rel=1e-5)
        assert model.level_max.tolist() == list(got.level_max)  # in the model's file
        for image in got.images:
            x = pixels.load(tmp_path / "data" / image.path)
            score, _ = model(torch.from_numpy(x)[None])
            assert float(score[0]) == image.score  # to the bit
            assert image.pixel_sha256 == pixel_sha256(x)
            assert got.references[image.pixel_sha256] == image.score
    assert len(got.images) == 9
    assert list(got.scores) == sorted(i.score for i in got.images)
    assert got.level_max_images == 6
    assert got.display_low < got.display_high <= 3


def test_what_is_stored_reads_back_and_gives_decisions(run: Run) -> None:
    got = calibrate(run)
    assert load_calibration(open_run(run.path)) == got
    decision = got.decision(0.1)
    assert max(got.scores) < decision.threshold < max(got.scores) * 1.001
    assert decision.false_alarm_rate == 0.1
    assert decision.band_low < decision.threshold < decision.band_high
    assert (decision.display_low, decision.display_high) == (got.display_low, got.display_high)
    assert got.threshold(0.2).value == got.scores[-2]
    # The bundle decides just above that part's score: no last bit can turn its verdict.
    assert got.scores[-2] < got.decision(0.2).threshold < got.scores[-2] * 1.001
    with pytest.raises(CalibrationError, match="at least 99 good parts"):
        got.decision(0.01)
    assert not list(run.path.glob("*.part*"))


def test_photographs_of_one_part_are_one_part(run: Run) -> None:
    """Nine photographs of three parts bound what three parts can bound."""
    names = [name for name, _ in run.record.data.roles["calibrate"]]
    parts = {name: f"part {i % 3}" for i, name in enumerate(names)}
    record = replace(run.record, data=replace(run.record.data, parts=parts))
    got = calibrate(Run(run.path, record))
    assert got.held() == "3 held-out good parts in 9 photographs"
    score = {image.path: image.score for image in got.images}
    assert got.part_scores == tuple(
        sorted(max(score[n] for n in names if parts[n] == f"part {i}") for i in range(3))
    )
    assert len(got.scores) == 9
    assert got.threshold(0.25).value == got.scores[-1]
    assert got.threshold(0.5).value == got.part_scores[1]
    with pytest.raises(CalibrationError, match=r"3 calibration parts cannot bound .* 0\.2"):
        got.threshold(0.2)


def test_calibrating_twice_gives_the_same(run: Run) -> None:
    first, second = calibrate(run), calibrate(run)
    assert replace(first, created="") == replace(second, created="")


def test_the_data_may_have_moved_but_not_changed(run: Run, tmp_path: Path) -> None:
    first = calibrate(run)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"data: the run's data set is not there; .* --data"):
        calibrate(run)
    assert calibrate(run, tmp_path / "elsewhere").scores == first.scores
    (tmp_path / "elsewhere" / "list.csv").write_text("path,split\n")
    assert calibrate(run, tmp_path / "elsewhere" / "list.csv").scores == first.scores

    good = tmp_path / "elsewhere" / "calibrate" / "good"
    write_png(good / "2.png", np.zeros((80, 70, 3), np.uint8))
    (good / "5.png").unlink()
    with pytest.raises(DataError) as error:
        calibrate(run, tmp_path / "elsewhere")
    assert "1 missing (calibrate/good/5.png)" in str(error.value)
    assert "1 changed since training (calibrate/good/2.png)" in str(error.value)
    assert load_calibration(run) == replace(first, created=load_calibration(run).created)


def test_a_run_without_calibration_images_is_refused(run: Run) -> None:
    roles = {"train": run.record.data.roles["train"]}
    bare = replace(run, record=replace(run.record, data=replace(run.record.data, roles=roles)))
    with pytest.raises(CalibrationError, match="0 calibration and 6 training images"):
        calibrate(bare)


def test_a_calibration_of_another_model_is_refused(run: Run) -> None:
    with pytest.raises(CalibrationError, match=r"not calibrated.*sanflow calibrate"):
        load_calibration(run)
    calibrate(run)
    model = run.model()
    model.level_max += 1
    write_model(run.path, model)
    with pytest.raises(CalibrationError, match=r"belongs to another model\.safetensors"):
        load_calibration(run)


def test_a_damaged_file_is_refused(run: Run) -> None:
    calibrate(run)
    path = run.path / "calibration.json"
    whole = path.read_text()
    for text in (whole[:100], "[" * 100_000):
        path.write_text(text)
        with pytest.raises(CalibrationError, match="is not JSON"):
            load_calibration(run)
    path.write_text(whole.replace('"created"', '"creatd"'))
    with pytest.raises(ConfigError, match="did you mean 'created'"):
        load_calibration(run)


def test_a_crash_between_the_files_leaves_scores_that_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(run)
    model = run.model()
    with torch.no_grad():
        next(model.flows.parameters()).mul_(1.5)  # as if trained on
    write_model(run.path, model)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "replace_file", crash)
    with pytest.raises(KeyboardInterrupt):
        calibrate(run)
    monkeypatch.undo()
    with pytest.raises(CalibrationError, match="belongs to another"):
        load_calibration(run)


def test_a_model_that_scores_nan_is_refused(run: Run) -> None:
    model = run.model()
    with torch.no_grad():
        next(model.flows.parameters()).fill_(float("nan"))
    write_model(run.path, model)
    with pytest.raises(CalibrationError, match="not finite numbers"):
        calibrate(run)
    assert not (run.path / "calibration.json").exists()


def test_level_maxima_are_taken_over_evenly_spaced_images() -> None:
    images = [(str(i), "") for i in range(1000)]
    chosen = [int(name) for name, _ in room._evenly(images, 512)]
    assert len(set(chosen)) == 512
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert set(np.diff(chosen)) <= {1, 2}
    assert room._evenly(images[:5], 512) == tuple(images[:5])
