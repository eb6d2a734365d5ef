"""Everything about a station that a user can choose, as line.toml says it and flags replace it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import schema
from ...errors import ConfigError, InputError
from .source import Trigger

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h)")


def seconds(text: str) -> float:
    """The seconds of a duration like 50ms, 1.5s or 2min; ValueError if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if not match or float(match[1]) == 0:
        raise ValueError(
            f"{text!r} is not a duration; give a number above 0 and a unit, for example 50ms"
        )
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Line:
    """[line]: pace and promises."""

    name: str = ""
    """What other machines call this station; empty is the host's name."""
    deadline: str = ""
    """From the trigger (or arrival) of a part to its verdict; later it is a reject."""
    queue: int = 3
    """Parts that may wait for the engine; one more is a reject."""
    workers: int = 0
    """Threads that prepare parts and call the engine; 0 is one more than it takes at a time."""
    late_to_fault: int = 3
    """Late parts in a row that raise a fault."""
    recover: int = 20
    """Parts judged in time, in a row, that end it."""
    idle_check: str = "1s"
    """When no part was judged in time for so long a golden sample is: the heart beats on. A
    part that comes in the middle of it waits until the engine is free."""
    hang: str = "5s"
    """An engine or camera call that takes longer is left behind, and opened anew."""
    pictures: int = 32
    """Pictures kept in shared memory for the slow outputs."""

    def __post_init__(self) -> None:
        _check_durations(self, "deadline", "idle_check", "hang")
        for name in ("queue", "late_to_fault", "recover", "pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}, expected 0 (automatic) or more")


@dataclass(frozen=True)
class SourceTable:
    """[source]: where frames come from."""

    uri: str = ""
    trigger: Trigger = "free"
    """`software`: an output asks for each part (a PLC's register), the station triggers the camera;
    `external`: a light barrier triggers it; `free`: it runs by itself."""
    silence: str = ""
    """Without a frame for so long the camera is said to be lost; empty is never."""
    frozen: int = 0
    """So many equal pictures in a row are a frozen camera and rejects; 0 never looks. No sensor
    sends the same bits twice, but a compressed stream of a scene at rest may."""

    def __post_init__(self) -> None:
        _check_durations(self, "silence")
        if self.frozen < 0 or self.frozen == 1:
            raise ValueError(f"frozen is {self.frozen}, expected 0 (never) or at least 2")


def _check_durations(table: object, *names: str) -> None:
    for name in names:
        if text := getattr(table, name):
            try:
                seconds(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True)
class LineConfig:
    """line.toml. The tables of outputs, archive and monitor are read by their own rooms."""

    line: Line = field(default_factory=Line)
    source: SourceTable = field(default_factory=SourceTable)
    output: tuple[dict[str, Any], ...] = ()
    archive: dict[str, Any] | None = None
    monitor: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Strict:
    line: Line = field(default_factory=Line)
    source: SourceTable = field(default_factory=SourceTable)


def load(path: Path | None, **flags: object) -> LineConfig:
    """The file, then the flags: `line__deadline="50ms"` replaces [line] deadline; None does not.

    Raises ConfigError for an unknown field or a bad value, InputError if there is no such file.
    """
    values = _read(path) if path is not None else {}
    for name, value in flags.items():
        table, _, key = name.partition("__")
        # What is no table in the file is refused below.
        if value is not None and isinstance(given := values.setdefault(table, {}), dict):
            given[key] = value
    others: dict[str, Any] = {
        name: values.pop(name) for name in ("output", "archive", "monitor") if name in values
    }
    where = str(path) if path is not None else "options"
    strict = schema.load(_Strict, values, where)
    output = others.get("output", [])
    if not isinstance(output, list) or not all(isinstance(t, dict) for t in output):
        raise ConfigError(f"{where}.output: expected tables, [[output]] with a kind each")
    for name in ("archive", "monitor"):
        if name in others and not isinstance(others[name], dict):
            raise ConfigError(f"{where}.{name}: expected a table, [{name}]")
    return LineConfig(
        strict.line, strict.source, tuple(output), others.get("archive"), others.get("monitor")
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
