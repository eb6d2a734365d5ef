"""Named configurations, and how a TOML file and single fields replace their values."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import schema
from ..config import OptimConfig, RunConfig
from ..data.config import SynthConfig
from ..errors import ConfigError
from ..model.config import LossConfig, ModelConfig
from ..model.token_config import FoadMfffConfig, SanfAdConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _sanflow() -> RunConfig:
    """The paper's method with the recommended reading where paper and code differ."""
    return RunConfig()


def _official() -> RunConfig:
    """The released code's choices (methods 2.13), its random mix of kinds as equal quotas."""
    return RunConfig(
        loss=LossConfig(
            form="official", bce_weight=0.2, kl_weight=1.0, half_log_variance=False, bce="official"
        ),
        synth=SynthConfig(
            quotas=(1, 1, 1, 1),
            small_height=(2, 16),
            small_width=(4, 32),
            medium_height=(16, 44),
            medium_width=(64, 254),
            circle_radius=(20, 30),
            jitter=0.2,
        ),
    )


def _edge() -> RunConfig:
    """Small enough to train and run on a 2-core PC; chosen in benchmarks/ablation.py."""
    return RunConfig(
        model=ModelConfig(
            extractor="resnet18",
            taps=(8, 16),
            pools=(1,),
            feature_scale="standard",
            position_dim=64,
            head_width=8,
        ),
        # Mostly good parts: the pooled level sees a part with an anomaly as a whole abnormal one.
        synth=SynthConfig(quotas=(5, 1, 1, 1)),
        optim=OptimConfig(
            epochs=12,
            sub_epochs=1,
            learning_rate=1e-3,
            warmup_meta_epochs=1,
            positions=0.25,
            updates=4,
            feature_noise=0.1,
        ),
    )


_TOKENS = OptimConfig(
    epochs=60,
    sub_epochs=1,
    learning_rate=5e-5,
    warmup_meta_epochs=0,
    decay="none",
    betas=(0.8, 0.8),
    epsilon=1e-4,
    weight_decay=1e-5,
)
"""Of the image-level methods (methods 5); how many epochs they had is not published."""


def _sanf_ad() -> RunConfig:
    """SANF-AD with four couplings on ViT-B/16 at 384 pixels, the tokens in their places."""
    synth = SynthConfig(enabled=False, quotas=(32, 0, 0, 0))
    return RunConfig(model=SanfAdConfig(), synth=synth, optim=_TOKENS)


def _foad_mfff() -> RunConfig:
    """FOAD-MFFF, otherwise as SANF-AD."""
    return replace(_sanf_ad(), model=FoadMfffConfig())


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "sanflow": _sanflow,
    "official": _official,
    "edge": _edge,
    "sanf-ad": _sanf_ad,
    "foad-mfff": _foad_mfff,
}


def preset(name: str) -> RunConfig:
    """The configuration called `name`; ConfigError names the known ones."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(PRESETS)}"
        raise ConfigError(f"preset: unknown name {name!r}; {hint}")
    return PRESETS[name]()


def load_config(
    base: str = "sanflow", toml: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """A preset, then the values of a TOML file, then single fields ("optim.epochs": 5).

    Raises ConfigError with the nearest name for an unknown field, with its path for a bad value.
    """
    values = schema.dump(preset(base))
    if toml is not None:
        _merge(values, _read(toml))
    for name, value in (overrides or {}).items():
        for key in reversed(name.split(".")):
            value = {key: value}
        _merge(values, value)
    return schema.load(RunConfig, values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # malformed TOML, or not UTF-8
        raise ConfigError(f"{path}: not a TOML file: {error}") from None


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Replace values; a table is merged field by field, so that it needs only what differs."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
