"""Named configurations, TOML files and single fields; wrong names get the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanflow import schema
from sanflow.config import RunConfig
from sanflow.errors import ConfigError
from sanflow.training.presets import PRESETS, load_config, preset


def test_presets_are_the_choices_the_reference_names() -> None:
    official, ours, edge = preset("official"), preset("sanflow"), preset("edge")
    assert (ours.loss.bce_weight, ours.loss.kl_weight, ours.loss.form) == (1.0, 0.2, "paper")
    assert (official.loss.bce_weight, official.loss.kl_weight) == (0.2, 1.0)
    assert official.loss.form == official.loss.bce == "official"
    assert not official.loss.half_log_variance
    assert sum(official.synth.quotas) == 4
    assert official.synth.circle_radius == (20, 30)
    for reference in (official, ours):
        assert reference.model.extractor == "wide_resnet50_2"
        assert reference.model.position_dim == 512
        assert (reference.optim.epochs, reference.optim.sub_epochs) == (80, 4)
    assert edge.model.extractor == "resnet18"
    assert edge.optim.positions < 1


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_being_stored(name: str) -> None:
    assert schema.load(RunConfig, schema.dump(preset(name))) == preset(name) == load_config(name)


def test_fields_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text(
        'weights = "none"\n[model]\nblocks = 4\n[optim]\nepochs = 7\nseed = 3\n'
        "[data.roi]\nx = 1\ny = 2\nwidth = 30\nheight = 40\n",
        encoding="utf-8",
    )
    config = load_config("edge", toml, {"optim.epochs": 9, "data.roi.width": 50})
    assert config.weights == "none"
    assert (config.model.blocks, config.optim.epochs, config.optim.seed) == (4, 9, 3)
    assert config.data.roi is not None
    assert (config.data.roi.x, config.data.roi.width) == (1, 50)
    assert config.model.extractor == "resnet18"  # of the preset


def test_a_table_can_be_given_as_one_value() -> None:
    roi = {"x": 0, "y": 0, "width": 64, "height": 32}
    config = load_config("edge", None, {"data.roi": roi})
    assert schema.dump(config.data.roi) == roi


def test_overrides_leave_the_callers_values_alone() -> None:
    roi = {"x": 0, "y": 0, "width": 64, "height": 32}
    load_config("edge", None, {"data.roi": roi, "data.roi.x": 5})
    assert roi["x"] == 0


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"optm.epochs": 5}, "did you mean 'optim'"),
        ({"optim.epoch": 5}, "did you mean 'epochs'"),
        ({"optim.epochs": "5"}, "config.optim.epochs: expected int"),
        ({"optim.epochs": 0}, "positive"),
        ({"optim": 5}, "expected a table"),
        ({"optim.epochs.x": 5}, "expected int"),
        ({"model.extractor": "resnet19"}, "resnet18"),
        ({"optim.precision": "fp8"}, "'bf16'"),
        ({"": 5}, "unknown field ''"),
    ],
)
def test_wrong_fields_are_refused_by_name(overrides: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match="config") as refused:
        load_config("edge", None, overrides)
    assert says in str(refused.value)


def test_wrong_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'edge'"):
        preset("egde")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("edge", tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[optim\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.toml: not a TOML file"):
        load_config("edge", broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config("edge", broken)
    broken.write_text("[optim]\nepoch = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        load_config("edge", broken)
