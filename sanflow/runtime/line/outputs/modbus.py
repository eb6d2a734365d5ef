"""A Modbus TCP server: a PLC reads verdicts from it, triggers parts and asks for recipes.

It answers every unit id, and holding (3) and input registers (4) alike; see `registers`. The server
has a thread of its own; the emitter only changes words in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Any

from ..output import Control, Output, OutputError, Picture, StationState
from ..result import PartResult
from . import Site
from .modbus_tcp import Server
from .options import ModbusOptions
from .registers import Registers, Request

START = 10.0
"""Seconds that the server may take to listen."""


class ModbusOutput(Output):
    """One listening address."""

    fast = True

    def __init__(self, options: ModbusOptions, site: Site) -> None:
        super().__init__(options.name)
        self._options = options
        self._recipes = [str(site.folder / recipe) for recipe in options.recipes]
        self._registers = Registers()
        self._control: Control | None = None
        self._triggers = 0
        self._error = ""
        self._server = Server(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def attach(self, control: Control) -> None:
        """Triggers and recipes go there."""
        self._control = control

    def open(self) -> None:
        """Listen; OutputError if the address is not to be had."""
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="sanflow-modbus", daemon=True)
        self._thread.start()
        listening = self._server.listen(self._options.host, self._options.port)
        try:
            asyncio.run_coroutine_threadsafe(listening, loop).result(START)
        except OSError as error:
            self.close()
            # asyncio's own words for a number repeat the address; names have numbers below 0.
            number = error.errno or 0
            why = os.strerror(number) if number > 0 else error.strerror
            raise OutputError(
                f"{self.name}: cannot listen there ({why}); is the port taken by another program, "
                "or below 1024 without the right to it? Give another [[output]] port"
            ) from None

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """The verdict is there for the next read."""
        self._registers.result(result)

    def announce(self, state: StationState) -> None:
        """The state is there for the next read."""
        self._registers.state(state)

    def health(self) -> dict[str, Any]:
        """Clients now; requests and triggers since the start; the last error."""
        return {
            "clients": len(self._server.clients),
            "requests": self._server.requests,
            "triggers": self._triggers,
            "error": self._error,
        }

    def close(self) -> None:
        """Let all connections go: a PLC must take that for Not Ready."""
        if self._thread is None or self._loop is None:
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(2.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        self._thread = None

    def read(self, address: int, count: int) -> Sequence[int] | None:
        """For the server: registers of one moment."""
        words = self._registers.read()
        return words[address : address + count] if address + count <= len(words) else None

    def write(self, address: int, words: Sequence[int]) -> Request | None:
        """For the server: take what the PLC writes, and do what it asks."""
        request = self._registers.write(address, words)
        if request is None or self._control is None:
            return request
        self._error = ""
        try:
            if request.recipe is not None:
                self._swap(self._control, request.recipe)
            if request.part is not None:
                self._triggers += 1
                self._control.trigger(request.part)
        except Exception as error:  # the PLC must not lose its connection over it
            self._error = str(error) or repr(error)
            if request.part is not None:
                self._registers.refused(request.part)
        return request

    def _swap(self, control: Control, number: int) -> None:
        recipes = self._recipes
        if number > len(recipes):
            self._error = f"the PLC asks for recipe {number}, [[output]] recipes has {len(recipes)}"
        else:
            control.swap(recipes[number - 1])
