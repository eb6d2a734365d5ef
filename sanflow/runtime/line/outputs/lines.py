"""Digital lines to switch: those of a Linux GPIO chip, or the coils of a remote I/O module.

The GPIO driver is written against the library's documentation and was never run on hardware.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..output import OutputError

# What goes wrong there is told by the output's health, not again and again in the log.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

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
        return _Coils(address.hostname or "", address.port or 502, lines)
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


class _Coils:
    def __init__(self, host: str, port: int, lines: Iterable[int]) -> None:
        try:
            from pymodbus.client import ModbusTcpClient
            from pymodbus.exceptions import ModbusException
        except ModuleNotFoundError:
            raise OutputError(
                "dio: pymodbus is not installed; pip install 'sanflow[dio]'"
            ) from None
        self._failed = ModbusException
        self._where = f"{host}:{port}"
        self._client = ModbusTcpClient(host, port=port, timeout=TIMEOUT, retries=0)
        if not self._client.connect():  # type: ignore[no-untyped-call]
            raise ConnectionError(f"no remote I/O module answers at {self._where}")
        for line in lines:
            self.set(line, False)

    def set(self, line: int, on: bool) -> None:
        try:
            answer = self._client.write_coil(line, on)
        except self._failed as error:
            raise ConnectionError(f"{self._where}: {error}") from None
        if answer.isError():
            raise ConnectionError(f"{self._where} refuses coil {line}: {answer}")

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]
