"""A whole run's configuration: what its parts refuse, and that it survives JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sanflow import schema
from sanflow.config import RunConfig
from sanflow.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss": {"kl_weight": -1}}, r"config\.loss: .*kl_weight -1\.0 must not be negative"),
        ({"loss": {"form": "papers"}}, r"config\.loss\.form: 'papers' is not one of 'paper'"),
        ({"optim": {"epochs": 0}}, "epochs, sub_epochs and updates must be positive"),
        ({"optim": {"positions": 0.0}}, r"positions in \(0, 1\]"),
        ({"optim": {"workers": -1}}, "workers -1"),
        ({"optim": {"seed": -1}}, r"config\.optim: seed -1 must be from 0 to"),
        ({"optim": {"seed": 2**64}}, "must be from 0 to 9223372036854775807"),
        ({"pretext": {"batch": 1}}, "batch 1 would hold a good image alone"),
        ({"pretext": {"steps": 0}}, r"config\.pretext: steps, batch and learning_rate"),
        ({"model": {"tap": [8]}}, "unknown field 'tap'; did you mean 'taps'"),
    ],
)
def test_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        schema.load(RunConfig, values)


GOOD = {"synth": {"enabled": False}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": {"method": "cflw"}}, "config.model.method: unknown name 'cflw'; did you mean"),
        ({"model": {"method": "cflow"}}, "cflow learns from good images alone: synth.enabled"),
        ({**GOOD, "model": {"method": "cflow", "mean_margin": 2.0}}, "unknown field 'mean_margin'"),
        (
            {**GOOD, "model": {"method": "cflow"}, "loss": {"kl_weight": 0.5}},
            "cflow has no loss.kl_weight; leave it out",
        ),
        (
            {**GOOD, "model": {"method": "cflow-sp"}, "loss": {"form": "official"}},
            "cflow-sp has no loss.form; leave it out, it has kl_weight",
        ),
        (
            {**GOOD, "model": {"method": "fastflow"}, "optim": {"positions": 0.5}},
            "fastflow trains whole images: optim.positions must be 1, optim.fibre 0",
        ),
        (
            {**GOOD, "model": {"method": "fastflow"}, "optim": {"fibre": 256}},
            "fastflow trains whole images",
        ),
        (
            {**GOOD, "model": {"method": "fastflow", "feature_scale": "standard"}},
            "feature_scale 'standard' and layer_norm do the same",
        ),
        ({"optim": {"fibre": 256}}, "a statistics head, which would learn from the first of a"),
        (
            {"model": {"variance": "fixed", "mean": "estimated"}, "optim": {"fibre": 8}},
            "optim.fibre 8 must be 0",
        ),
        (
            {**GOOD, "model": {"method": "cflow-sp"}, "optim": {"fibre": 256}},
            "cflow-sp has a statistics head",
        ),
        ({"optim": {"positions": 0.5, "fibre": 8}}, "fibre 8 .* takes all positions"),
        ({"optim": {"betas": [0.9, 1.0]}}, "betas"),
        ({"optim": {"epsilon": 0.0}}, "epsilon must be positive"),
    ],
)
def test_what_a_method_has_not_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        schema.load(RunConfig, values)


def test_fibres_are_for_flows_without_a_head() -> None:
    unit = {**GOOD, "model": {"variance": "unit"}, "optim": {"fibre": 256}}
    assert schema.load(RunConfig, unit).optim.fibre == 256
    cflow = {**GOOD, "model": {"method": "cflow"}, "optim": {"fibre": 256}}
    assert schema.load(RunConfig, cflow).optim.fibre == 256


def test_a_record_without_a_method_is_sanflows() -> None:
    assert schema.load(RunConfig, {"model": {"taps": [8, 16]}}).method == "sanflow"


def test_survives_json() -> None:
    config = schema.load(
        RunConfig,
        {"model": {"taps": [4, 8, 16]}, "data": {"roi": {"x": 1, "y": 2, "width": 3, "height": 4}}},
    )
    assert config.model.taps == (4, 8, 16)
    assert schema.load(RunConfig, json.loads(json.dumps(schema.dump(config)))) == config
