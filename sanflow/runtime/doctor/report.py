"""All checks, what they say about this machine, and the exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ... import __version__, schema
from ...errors import EngineError
from ..machine import Machine, describe
from . import bundle as of_bundle
from . import gpu, machine
from .bundle import Asked
from .check import Check


@dataclass(frozen=True)
class DoctorReport:
    """Everything that was looked at, and the machine."""

    sanflow: str
    machine: Machine
    checks: tuple[Check, ...]
    engines: tuple[str, ...]
    """The engines that work here."""
    exit_code: int
    """0 if this machine can judge parts (with the bundle, if one was given); else that of the
    error which stands in the way."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(schema.dump(self))

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Group, name, status, and detail with what to do, for a table."""
        return [
            (c.group, c.name, c.status, "; ".join(filter(None, (c.detail, c.fix))))
            for c in self.checks
        ]


def doctor(
    bundle: str | os.PathLike[str] | None = None,
    *,
    asked: Asked = Asked(),  # noqa: B008  # frozen
    progress: Callable[[Check], None] | None = None,
) -> DoctorReport:
    """Look at everything; whatever is wrong is in the report, nothing is raised.

    `asked` limits what is looked at in the bundle; `progress` is called with each check.
    """
    found = describe()
    checks: list[Check] = []
    for check in _examine(found, bundle, asked):
        checks.append(check)
        if progress is not None:
            progress(check)
    engines = tuple(c.name for c in checks if c.group == "engine" and c.status == "ok")
    codes = [check.code for check in checks if check.code]
    # Whoever trains only needs no engine, but the doctor is asked about judging.
    code = codes[0] if codes else 0 if engines else EngineError.exit_code
    return DoctorReport(__version__, found, tuple(checks), engines, code)


def _examine(
    found: Machine, bundle: str | os.PathLike[str] | None, asked: Asked
) -> Iterator[Check]:
    yield from machine.machine(found)
    yield from gpu.checks()
    yield from machine.engines()
    yield machine.training()
    if bundle is not None:
        yield from of_bundle.checks(bundle, asked)
