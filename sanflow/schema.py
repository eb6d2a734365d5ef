"""Strict conversion between plain JSON or TOML values and frozen dataclasses.

A field that is not declared is refused with the nearest declared name, a missing or mistyped
one with its path. No coercion except int to float: what a file says is what the program gets.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from typing import Any, TypeVar

from .errors import ConfigError

T = TypeVar("T")


def load(cls: type[T], value: object, where: str = "config") -> T:
    """Build the dataclass `cls` from plain values; `where` names the place in error messages.

    Raises ConfigError on an unknown, missing or mistyped field, and on any value that the
    dataclass's own `__post_init__` refuses.
    """
    return typing.cast(T, _convert(cls, value, where))


def dump(value: object) -> Any:
    """Plain JSON values (dict, list, str, int, float, bool, None) of a dataclass tree."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: dump(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [dump(item) for item in value]
    if isinstance(value, dict):
        return {key: dump(item) for key, item in value.items()}
    return value


def _convert(kind: Any, value: object, where: str) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        return _convert(_member(inner, value, where), value, where)
    if origin is typing.Literal:
        # By type, too: 1.0 and True equal 1.
        if not any(value == a and type(value) is type(a) for a in arguments):
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            raise ConfigError(f"{where}: expected a table, got {_name(value)}")
        return {k: _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    return _scalar(kind, value, where)


def _member(kinds: list[Any], value: object, where: str) -> Any:
    """Of a union's dataclasses, the one whose first field, a Literal, has the value given.

    The first one where that field is left out.
    """
    if len(kinds) == 1:
        return kinds[0]
    tag = dataclasses.fields(kinds[0])[0].name
    names = {name: kind for kind in kinds for name in typing.get_args(_hints(kind)[tag])}
    if not isinstance(value, dict) or tag not in value:
        return kinds[0]
    if not isinstance(value[tag], str) or value[tag] not in names:
        near = difflib.get_close_matches(str(value[tag]), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"{where}.{tag}: unknown name {value[tag]!r}; {hint}")
    return names[value[tag]]


def _dataclass(kind: Any, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a table, got {_name(value)}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ConfigError(f"{where}: unknown field {key!r}{hint}")
    hints = _hints(kind)
    given = {k: _convert(hints[k], v, f"{where}.{k}") for k, v in value.items()}
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in given:
            raise ConfigError(f"{where}: missing field {name!r}")
    try:
        return kind(**given)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


# Evaluating annotations is most of the cost of loading, and the classes never change.
_hints = functools.cache(typing.get_type_hints)


def _tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, got {_name(value)}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(arguments):
        raise ConfigError(f"{where}: expected {len(arguments)} values, got {len(value)}")
    return tuple(
        _convert(a, v, f"{where}[{i}]")
        for i, (a, v) in enumerate(zip(arguments, value, strict=True))
    )


def _scalar(kind: Any, value: object, where: str) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ConfigError(f"{where}: a whole number of this size is not a float") from None
    if type(value) is not kind:
        wanted = "text in quotes" if kind is str else kind.__name__
        raise ConfigError(f"{where}: expected {wanted}, got {_name(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value} is not a finite number")
    return value


def _name(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"[:80]
