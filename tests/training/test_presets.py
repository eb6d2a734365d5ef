"""Named configurations, TOML files and single fields; wrong names get the nearest right one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sanflow import schema
from sanflow.config import RunConfig
from sanflow.errors import ConfigError
from sanflow.model.methods import METHODS
from sanflow.training.presets import PRESETS, load_config, preset
from sanflow.training.recipes import CATEGORY_SIZES, ROWS


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
    local = preset("edge-local")
    assert local.model.pools == (local.model.height // max(local.model.taps),)
    assert replace(local, model=replace(local.model, pools=edge.model.pools)) == edge


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
    with pytest.raises(ConfigError, match=r"broken\.toml\.optim: .*did you mean 'epochs'"):
        load_config("edge", broken)
    with pytest.raises(ConfigError, match=r"broken\.toml\.optim: .*did you mean 'epochs'"):
        load_config("edge", broken, {"optim.epochs": 3})


def test_a_mistake_beside_a_sound_file_is_not_the_files(tmp_path: Path) -> None:
    toml = tmp_path / "sound.toml"
    toml.write_text("[optim]\nepochs = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^config\.optim: unknown field 'epoch'"):
        load_config("edge", toml, {"optim.epoch": 3})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_preset_of_its_own(name: str) -> None:
    assert preset(name).method == preset(None, name).method == name


def test_a_preset_is_looked_up_in_its_method() -> None:
    assert preset("edge", "cflow") == preset("cflow-edge")
    assert preset("cflow-edge", "cflow") == preset("cflow-edge")
    assert preset("edge", "sanflow") == preset("edge")
    with pytest.raises(ConfigError, match="'official' is one of sanflow, not of fastflow"):
        preset("official", "fastflow")
    with pytest.raises(ConfigError, match="unknown name 'cfow'; did you mean 'cflow'"):
        preset(None, "cfow")


def test_a_file_may_choose_the_method(tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text('[model]\nmethod = "fastflow"\nblocks = 4\n', encoding="utf-8")
    chosen = load_config(None, toml)
    assert (chosen.method, chosen.model.blocks) == ("fastflow", 4)  # type: ignore[union-attr]
    assert chosen.optim == preset("fastflow").optim
    assert load_config(None, None, {"model.method": "cflow"}) == preset("cflow")
    assert load_config(None, None, {}, "cflow") == preset("cflow")
    with pytest.raises(ConfigError, match="unknown name 7"):
        load_config(None, None, {"model.method": 7})


def test_cflow_is_trained_as_its_code_does() -> None:
    config = preset("cflow")
    assert (config.optim.epochs, config.optim.sub_epochs) == (200, 8)
    assert (config.optim.fibre, config.optim.learning_rate) == (256, 2e-4)
    assert sum(config.synth.quotas) == 32
    for category, size in CATEGORY_SIZES.items():
        assert preset(f"cflow-{category}").model.height == size
    assert len(CATEGORY_SIZES) == 15
    assert preset("cflow-mobilenet").model.taps == (8, 16, 32)


def test_fastflow_is_trained_as_its_code_does() -> None:
    config = preset("fastflow")
    assert config.model.taps == (4, 8, 16)
    assert (config.optim.learning_rate, config.optim.weight_decay) == (1e-3, 1e-5)
    assert config.optim.decay == "none"
    assert preset("fastflow-sp").optim.learning_rate == 2e-4
    small, large = (preset(name).model for name in ("fastflow-resnet18", "fastflow"))
    assert (small.conv3x3_only, large.conv3x3_only) == (True, False)  # type: ignore[union-attr]


@pytest.mark.parametrize("prefix", ["", "edge-"])
@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_ablation_differs_in_its_row_alone(row: str, prefix: str) -> None:
    found, plain = preset(prefix + row), preset("edge" if prefix else "sanflow")
    model, loss, anomalies = ROWS[row]
    assert {k: getattr(found.model, k) for k in model} == model
    assert {k: getattr(found.loss, k) for k in loss} == loss
    assert found.synth.enabled == anomalies
    assert sum(found.synth.quotas) == sum(plain.synth.quotas)
    assert found.optim == plain.optim
    assert found != plain


def test_another_size_of_edge_local_says_which_cells_it_has() -> None:
    size = {"model.height": 192, "model.width": 192}
    with pytest.raises(ConfigError, match=r"pools \[16\] must be .* of 12, .*model.pools=\[12\]"):
        load_config("edge-local", None, size)
    assert load_config("edge-local", None, {**size, "model.pools": [12]}).model.pools == (12,)
