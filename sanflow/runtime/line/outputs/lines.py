"""Digital lines to switch: those of a Linux GPIO chip, or the coils of a remote I/O module.

The GPIO driver is written against the library's documentation and was never run on hardware.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..output import OutputError
from .modbus_tcp import Coils

TIMEOUT = 0.5
"""Seconds that a remote module may take to answer."""


class Lines(Protocol):
    """Lines by their numbers; all are off when they are opened."""

    def set(self, line: int, on: bool) -> None:
        """Switch one; OSError if it may not be switched now."""

    def close(self) -> None:
        """Let go; never raises."""


def open_lines(device: str, lines: Iterable[int]) -> Lines:
    """The driver of a device; OutputError if it is missing, OSError if it does not answer."""
    if device.startswith("modbus:"):
        address = urlsplit(device)
        return _open_coils(address.hostname or "", address.port or 502, lines)
    return _Gpio(device, lines)


class _Gpio:
    def __init__(self, device: str, lines: Iterable[int]) -> None:
        try:
            import gpiod
        except ModuleNotFoundError:
            raise OutputError(
                "dio: gpiod is not installed; pip install 'sanflow[dio]' (Linux only)"
            ) from None
        if not Path(device).exists():
            raise OutputError(f"dio: there is no {device}; `gpiodetect` lists the chips")
        self._values = {False: gpiod.line.Value.INACTIVE, True: gpiod.line.Value.ACTIVE}
        out = gpiod.LineSettings(
            direction=gpiod.line.Direction.OUTPUT, output_value=self._values[False]
        )
        self._request: Any = gpiod.request_lines(
            device, config={tuple(lines): out}, consumer="sanflow"
        )

    def set(self, line: int, on: bool) -> None:
        self._request.set_value(line, self._values[on])

    def close(self) -> None:
        self._request.release()


def _open_coils(host: str, port: int, lines: Iterable[int]) -> Coils:
    try:
        coils = Coils(host, port, TIMEOUT)
    except OSError as error:
        raise ConnectionError(f"no remote I/O module answers at {host}:{port}: {error}") from None
    try:
        for line in lines:
            coils.set(line, False)
    except OSError:
        coils.close()
        raise
    return coils
