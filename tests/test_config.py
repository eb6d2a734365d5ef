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
        ({"pretext": {"steps": 0}}, r"config\.pretext: steps, batch and learning_rate"),
        ({"model": {"tap": [8]}}, "unknown field 'tap'; did you mean 'taps'"),
    ],
)
def test_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        schema.load(RunConfig, values)


def test_survives_json() -> None:
    config = schema.load(
        RunConfig,
        {"model": {"taps": [4, 8, 16]}, "data": {"roi": {"x": 1, "y": 2, "width": 3, "height": 4}}},
    )
    assert config.model.taps == (4, 8, 16)
    assert schema.load(RunConfig, json.loads(json.dumps(schema.dump(config)))) == config
