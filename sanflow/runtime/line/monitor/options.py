"""What a user can choose about the monitor: the table [monitor] of line.toml."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from .... import schema
from ..config import seconds
from ..output import OutputError


@dataclass(frozen=True)
class MonitorOptions:
    """[monitor]: there is one where the table is, even an empty one."""

    host: str = "127.0.0.1"
    """The address to listen on; nothing that is served can change anything, and nothing is asked
    of who reads it."""
    port: int = 9464
    stale: str = "15s"
    """Without a heartbeat for so long the station is not healthy."""
    drift_parts: int = 1_000_000
    """While parts are as the calibration parts were, a false alarm of drift comes once in so many
    parts on average, or more rarely; 0 does not look for drift."""
    rejects: float = 0.1
    """A greater share of rejects among the judged parts is an alarm, too."""
    keep_days: int = 365
    """Older daily summaries are removed."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port {self.port}: no such port")
        if self.drift_parts and self.drift_parts < 100:
            raise ValueError(f"drift_parts is {self.drift_parts}, expected 0 (off) or at least 100")
        if not 0 < self.rejects < 1:
            raise ValueError(f"rejects is {self.rejects}, expected a share between 0 and 1")
        if self.keep_days < 1:
            raise ValueError(f"keep_days is {self.keep_days}, expected at least 1")
        try:
            seconds(self.stale)
        except ValueError as error:
            raise ValueError(f"stale: {error}") from None


def load_monitor(table: dict[str, Any] | None, where: str = "line") -> MonitorOptions | None:
    """The table as line.toml says it, None without one.

    Raises ConfigError for an unknown field or a bad value, OutputError if a library is missing.
    """
    if table is None:
        return None
    options = schema.load(MonitorOptions, table, f"{where}.monitor")
    if importlib.util.find_spec("prometheus_client") is None:
        raise OutputError(
            "monitor: prometheus_client is not installed; pip install 'sanflow[monitor]'"
        )
    return options
