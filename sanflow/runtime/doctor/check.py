"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import SanflowError

Group = Literal["machine", "gpu", "engine", "training", "bundle"]
Status = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Check:
    """What was found, and what to do about it."""

    group: Group
    name: str
    status: Status
    """`missing` is no fault as long as something else does the work."""
    detail: str
    fix: str = ""
    """What to do about it; empty where nothing is wrong, or `detail` says it."""
    code: int = 0
    """The exit code of the error that was met."""


def failure(name: str, error: Exception) -> Check:
    """What an error says of a bundle; anything we did not expect is named by its type."""
    if isinstance(error, SanflowError):
        return Check("bundle", name, "failed", str(error), code=error.exit_code)
    detail = f"unexpected {type(error).__name__}: {error}"
    return Check("bundle", name, "failed", detail, code=SanflowError.exit_code)
