"""Named configurations, and how a TOML file and single fields replace their values."""

from __future__ import annotations

import copy
import difflib
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from .. import schema
from ..config import RunConfig
from ..data.config import SynthConfig
from ..errors import ConfigError
from ..model.config import LossConfig
from ..model.options import METHOD_NAMES
from .cls_recipes import CLS_CNF
from .recipes import CFLOW, FASTFLOW, SANFLOW
from .token_recipes import TOKENS

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


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "sanflow": _sanflow,
    "official": _official,
    **SANFLOW,
    **CFLOW,
    **FASTFLOW,
    **TOKENS,
    **CLS_CNF,
}


def preset(name: str | None = None, method: str | None = None) -> RunConfig:
    """The configuration called `name`, or a method's own; ConfigError names the known ones.

    With a method, `name` may leave it out: `edge` of `cflow` is `cflow-edge`.
    """
    if method is not None and method not in METHOD_NAMES:
        raise ConfigError(f"method: unknown name {method!r}; {_hint(method, METHOD_NAMES)}")
    if name is None:
        return PRESETS[method or "sanflow"]()
    if method is not None and f"{method}-{name}" in PRESETS:
        return PRESETS[f"{method}-{name}"]()
    if name not in PRESETS:
        raise ConfigError(f"preset: unknown name {name!r}; {_hint(name, PRESETS)}")
    found = PRESETS[name]()
    if method is not None and found.method != method:
        own = [known for known, make in PRESETS.items() if make().method == method]
        raise ConfigError(
            f"preset: {name!r} is one of {found.method}, not of {method}; it has {', '.join(own)}"
        )
    return found


def load_config(
    base: str | RunConfig | None = None,
    toml: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    method: str | None = None,
) -> RunConfig:
    """A preset, then the values of a TOML file, then single fields ("optim.epochs": 5).

    Where `method` is not given, a `model.method` among the values chooses the presets. `base` may
    be a configuration instead; one of another method than is asked for gives way to that method's
    preset. Raises ConfigError with the nearest name for an unknown field, with its path for a bad
    value.
    """
    given = {} if toml is None else _read(toml)
    for name, value in (overrides or {}).items():
        for key in reversed(name.split(".")):
            value = {key: value}
        _merge(given, value)
    model = given.get("model")
    asked = model.get("method") if isinstance(model, Mapping) else None
    chosen = method or (asked if isinstance(asked, str) else None)
    if isinstance(base, RunConfig):
        begin = base if chosen in (None, base.method) else preset(None, chosen)
    else:
        begin = preset(base, chosen)
    values = schema.dump(begin)
    _merge(values, given)
    try:
        return schema.load(RunConfig, values)
    except ConfigError:
        if toml is not None and overrides:
            load_config(base, toml, method=method)  # the file's own mistake bears its name
        elif toml is not None:
            schema.load(RunConfig, values, toml.name)
        raise


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


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
            into[key] = copy.deepcopy(value)
