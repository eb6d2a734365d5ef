"""What a sweep's TOML file says: which methods, on which data, from which presets and seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import schema
from ..data.config import Layout
from ..errors import ConfigError, EngineError, InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN = "own"
PATHS = {"weights", "hybrid.textures.folder"}
"""Fields of a run that name a file or folder."""
DECIDED = {
    "model.method": "methods",
    "optim.seed": "seeds",
    "data.layout": "layout of [[data]]",
    "data.category": "categories of [[data]]",
}
"""Fields of a run that each cell has its own value of, and what of the file gives it."""


@dataclass(frozen=True)
class DataEntry:
    """One data set, and the categories of it that are trained on."""

    root: str
    """A folder or CSV file, relative to the TOML file."""
    name: str = ""
    """What the leaderboard calls it; empty: the name of the folder or file."""
    layout: Layout = "auto"
    categories: tuple[str, ...] = ()
    """Empty: all that a public data set has there, or a user's own data as a whole."""
    skip_bad: bool = False
    """Go on without images that cannot be used or are there twice."""
    category_presets: bool = False
    """Take the preset METHOD-CATEGORY, what a method's authors chose for each category."""


@dataclass(frozen=True)
class SweepConfig:
    """The tables and values of the file, but for the fields of the runs."""

    data: tuple[DataEntry, ...]
    methods: tuple[str, ...] = ("sanflow",)
    presets: tuple[str, ...] = (OWN,)
    """Names of presets; `own` is the one that is called like the method."""
    seeds: tuple[int, ...] = (0,)
    target: str = "onnx"
    precision: str = "fp32"
    device: str = "auto"
    """Where cells train and are evaluated: auto, cpu, cuda or cuda:N."""
    threads: int = 1
    """Of each cell. Part of the sweep, because sums over several threads round differently."""
    gpus: float = 0.0
    """GPUs, or the share of one, that a cell needs: Ray places cells by it."""
    keep_models: bool = True
    """False removes the run and the bundle of a cell as soon as its figures are known."""

    def __post_init__(self) -> None:
        for name in ("data", "methods", "presets", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; give at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values} holds a value twice")
        if self.threads < 1 or self.gpus < 0:
            raise ValueError("threads must be at least 1, gpus not negative")


@dataclass(frozen=True)
class Sweep:
    """A sweep's file, read."""

    config: SweepConfig
    base: Path
    """Where the file's relative paths begin."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """`[set]`: what replaces the presets' values in every cell."""
    fields_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`[set_for.METHOD]`: the same for the cells of one method; these win."""

    def overrides(self, method: str) -> dict[str, Any]:
        """Dotted names and values of what a method's cells set; paths begin at the file."""
        found = {**flat(self.fields), **flat(self.fields_of.get(method, {}))}
        for name in PATHS & found.keys():
            if found[name] not in ("", "imagenet", "none"):
                found[name] = str(self.base / str(found[name]))
        return found


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's TOML file; ConfigError names an unknown field or a bad value."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # malformed TOML, or not UTF-8
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    fields, fields_of = (values.pop(name, {}) for name in ("set", "set_for"))
    config = schema.load(SweepConfig, values, path.name)
    _require_known(config, path.name)
    for name, table in (("set", fields), ("set_for", fields_of)):
        if not isinstance(table, dict):
            raise ConfigError(f"{path.name}.{name}: expected a table, got {table!r}")
    for method, table in fields_of.items():
        if method not in config.methods or not isinstance(table, dict):
            raise ConfigError(
                f"{path.name}.set_for.{method}: expected a table for one of the methods "
                f"{', '.join(config.methods)}"
            )
    for name, table in (("set", fields), *((f"set_for.{m}", t) for m, t in fields_of.items())):
        if decided := sorted(DECIDED.keys() & flat(table)):
            raise ConfigError(
                f"{path.name}.{name}.{decided[0]}: each cell has its own; give "
                f"{DECIDED[decided[0]]} in its place"
            )
    return Sweep(config, path.resolve().parent, fields, fields_of)


def _require_known(config: SweepConfig, where: str) -> None:
    """ConfigError for a target, precision or device that no machine has."""
    # Not above: the process of a cell reads this file before it can say that a package is missing.
    from ..export.asked import known_precision, known_target
    from ..model.device import known_device

    try:
        known_device(config.device)
        with suppress(EngineError):  # of this machine; a cell asks the one that it runs on
            known_precision(config.precision, known_target(config.target))
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from None


def flat(values: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{name}.{key}" if name else key
        found |= flat(value, dotted) if isinstance(value, Mapping) else {dotted: value}
    return found
