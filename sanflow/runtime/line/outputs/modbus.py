"""A Modbus TCP server: a PLC reads verdicts from it, triggers parts and asks for recipes.

It answers every unit id, and holding (3) and input registers (4) alike; see `registers`. The server
has a thread of its own; the emitter only changes words in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from ..output import Control, Output, OutputError, Picture, StationState
from ..result import PartResult
from . import Site
from .options import ModbusOptions
from .registers import END, Registers

FUNCTIONS = (3, 4, 6, 16, 23)
"""Read holding and input registers, write one, write several, write and read."""
START = 10.0
"""Seconds that the server may take to listen."""


class ModbusOutput(Output):
    """One listening address."""

    fast = True

    def __init__(self, options: ModbusOptions, site: Site) -> None:
        super().__init__(f"modbus:{options.host}:{options.port}")
        self._options = options
        self._registers = Registers()
        self._control: Control | None = None
        self._counts = {"clients": 0, "requests": 0, "triggers": 0}
        self._error = ""
        self._loop = asyncio.new_event_loop()
        self._server: ModbusTcpServer | None = None
        self._thread: threading.Thread | None = None

    def attach(self, control: Control) -> None:
        """Triggers and recipes go there."""
        self._control = control

    def open(self) -> None:
        """Listen; OutputError if the address is not to be had."""
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="sanflow-modbus", daemon=True
        )
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START)
        except (RuntimeError, OSError, TimeoutError) as error:
            self.close()
            raise OutputError(
                f"{self.name}: cannot listen there; is the port taken by another program, or below "
                "1024 without the right to it? Give another [[output]] port"
            ) from error

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """The verdict is there for the next read."""
        self._registers.result(result)

    def announce(self, state: StationState) -> None:
        """The state is there for the next read."""
        self._registers.state(state)

    def health(self) -> dict[str, Any]:
        """Clients now; requests and triggers since the start; the last error."""
        return {**self._counts, "error": self._error}

    def close(self) -> None:
        """Let all connections go: a PLC must take that for Not Ready."""
        if self._thread is None:
            return
        if self._server is not None:
            shutdown = self._server.shutdown()  # type: ignore[no-untyped-call]
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(shutdown, self._loop).result(2.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        self._thread = None

    async def _listen(self) -> None:
        # Unit id 0 is every one: what a PLC fills in there differs from make to make.
        memory = SimData(0, count=END, values=0, datatype=DataType.REGISTERS)
        server = ModbusTcpServer(
            SimDevice(0, [memory], action=self._asked),
            address=(self._options.host, self._options.port),
            trace_connect=self._connected,
        )
        await server.serve_forever(background=True)
        self._server = server

    async def _asked(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        memory: list[int],
        written: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """Before each answer: take what is written, lay out what is read."""
        self._counts["requests"] += 1
        if function not in FUNCTIONS:
            return ExcCodes.ILLEGAL_FUNCTION
        if written is not None and not self._take(address, written):
            return ExcCodes.ILLEGAL_ADDRESS
        memory[:END] = self._registers.read()
        return None

    def _take(self, address: int, words: list[int] | list[bool]) -> bool:
        request = self._registers.write(address, [int(word) for word in words])
        if request is None:
            return False
        if self._control is None:
            return True
        try:
            if request.recipe is not None:
                self._swap(self._control, request.recipe)
            if request.part is not None:
                self._counts["triggers"] += 1
                self._control.trigger(request.part)
        except Exception as error:  # the PLC must not lose its connection over it
            self._error = str(error) or repr(error)
        return True

    def _swap(self, control: Control, number: int) -> None:
        recipes = self._options.recipes
        if number > len(recipes):
            self._error = f"the PLC asks for recipe {number}, [[output]] recipes has {len(recipes)}"
        else:
            control.swap(recipes[number - 1])

    def _connected(self, up: bool) -> None:
        self._counts["clients"] += 1 if up else -1
