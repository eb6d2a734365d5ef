"""Digital lines: the coils of a real Modbus server that stands for a remote I/O module.

No GPIO chip was at hand: its driver is held to the library's own types, the chip is a stand-in.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymodbus", reason="pip install pymodbus")
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from sanflow.runtime.line.output import OutputError
from sanflow.runtime.line.outputs import Site
from sanflow.runtime.line.outputs.dio import DioOutput
from sanflow.runtime.line.outputs.options import DioOptions

from .conftest import a_result, a_state, eventually, free_port, rejected

OK, NG, READY, BEAT = 0, 3, 5, 6
NAMES = {OK: "ok", NG: "ng", READY: "ready", BEAT: "beat"}


class Module:
    """A remote I/O module that notes when which coil was switched."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen: list[tuple[float, str, bool]] = []
        self.coils = [False] * 8
        self.stuck = False
        """Whether it refuses to switch the OK coil off."""
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)

    async def _listen(self) -> None:
        bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
        words = [SimData(0, values=0, datatype=DataType.REGISTERS)]
        self.server = ModbusTcpServer(
            SimDevice(0, (bits, list(bits), words, list(words)), action=self._asked),
            address=("127.0.0.1", self.port),
        )
        await self.server.serve_forever(background=True)

    async def _asked(self, function: int, start: int, at: int, n: int, now: Any, new: Any) -> Any:
        if self.stuck and at == OK and new is not None and not new[0]:
            from pymodbus.constants import ExcCodes

            return ExcCodes.DEVICE_FAILURE
        if new is not None:
            self.coils[at] = bool(new[0])
            self.seen.append((time.monotonic(), NAMES[at], bool(new[0])))
        return None

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.shutdown(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)

    def edges(self, *names: str) -> list[str]:
        """Which lines went on, in order."""
        return [name for _, name, on in list(self.seen) if on and name in names]


@pytest.fixture
def module() -> Iterator[Module]:
    module = Module(free_port())
    yield module
    module.stop()


def opened(port: int, **options: Any) -> DioOutput:
    given = {"ok": OK, "ng": NG, "ready": READY, "heartbeat": BEAT, "lag_ms": 5000.0, **options}
    output = DioOutput(DioOptions("dio", f"modbus://127.0.0.1:{port}", **given), Site(Path(".")))
    output.open()
    return output


def test_a_pulse_for_each_verdict_in_order_and_apart(module: Module) -> None:
    output = opened(module.port, pulse_ms=10.0, gap_ms=4.0)
    for number in range(1, 13):
        output.emit(a_result(number), None)
    eventually(lambda: output.health()["ok"] + output.health()["ng"] == 12)
    output.close()
    assert module.edges("ok", "ng") == ["ng" if n % 3 == 0 else "ok" for n in range(1, 13)]
    pulses = [(t, on) for t, name, on in module.seen if name in ("ok", "ng")]
    # All off at the start, then on and off by turns, each for its time.
    pulses = pulses[next(i for i, (_, on) in enumerate(pulses) if on) :]
    for (begun, up), (ended, down) in zip(pulses[::2], pulses[1::2], strict=True):
        assert (up, down) == (True, False)
        assert ended - begun >= 0.009
    for (_, _), (ended, _), (begun, _) in zip(pulses, pulses[1:], pulses[2:], strict=False):
        assert begun >= ended
    assert module.coils == [False] * 8


def test_the_heartbeat_changes_with_judged_parts_only(module: Module) -> None:
    output = opened(module.port, pulse_ms=1.0, gap_ms=1.0)
    for result in (a_result(1), rejected(2), a_result(4), rejected(5, "no_image"), a_result(7)):
        output.emit(result, None)
    output.close()
    beats = [on for _, name, on in module.seen if name == "beat"]
    assert beats[1:] == [True, False, True]


def test_ready_is_on_while_the_station_can_be_trusted(module: Module) -> None:
    output = opened(module.port)
    assert not module.coils[READY]
    for state, on in (
        (a_state(), True),
        (a_state(state="Running"), True),
        (a_state(state="Error", fault="camera lost"), False),
        (a_state(), True),
        (a_state(state="Halted"), False),
        (a_state(), True),
    ):
        output.announce(state)
        eventually(lambda on=on: module.coils[READY] == on)
    output.close()
    assert not module.coils[READY]


def test_a_late_pulse_is_left_out(module: Module) -> None:
    output = opened(module.port, pulse_ms=600.0, gap_ms=10.0, lag_ms=500.0)
    for number in (1, 2, 4):
        output.emit(a_result(number), None)
    eventually(lambda: output.health()["left_out"] == 2)
    output.close()
    assert module.edges("ok", "ng") == ["ok"]
    assert "faster than pulses" in output.health()["error"]


def test_without_a_module_every_part_is_a_reject_and_it_may_come_later() -> None:
    port = free_port()
    output = opened(port, lag_ms=1000.0)
    assert "no remote I/O module answers" in output.health()["error"]
    output.announce(a_state())
    begun = time.monotonic()
    for number in (1, 2):
        output.emit(a_result(number), None)
    assert time.monotonic() - begun < 1
    eventually(lambda: output.health()["left_out"] == 1)
    time.sleep(1.1)
    module = Module(port)
    eventually(lambda: module.coils[READY])
    eventually(lambda: output.health()["left_out"] == 2)
    assert module.edges("ok", "ng") == []
    output.emit(a_result(1), None)
    eventually(lambda: module.edges("ok") == ["ok"])
    output.close()
    module.stop()


def test_the_ok_line_is_switched_off_as_soon_as_that_works(module: Module) -> None:
    output = opened(module.port)
    module.stuck = True
    output.emit(a_result(1), None)
    eventually(lambda: "coil 0 is refused" in output.health()["error"])
    assert module.coils[OK]  # what the module does not take, nobody can switch
    module.stuck = False
    eventually(lambda: not module.coils[OK])
    output.emit(a_result(2), None)
    eventually(lambda: module.edges("ok") == ["ok", "ok"])
    output.close()
    assert not module.coils[OK]


def test_a_gpio_chip_gets_its_lines_as_outputs_that_are_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpiod = pytest.importorskip("gpiod", reason="pip install sanflow[dio]")
    chip = tmp_path / "gpiochip0"
    chip.touch()
    asked: dict[str, Any] = {}
    seen: list[tuple[int, Any]] = []

    class Request:
        def set_value(self, line: int, value: Any) -> None:
            seen.append((line, value))

        def release(self) -> None:
            asked["released"] = True

    def request_lines(path: str, config: Any, consumer: str) -> Request:
        asked.update(path=path, config=config, consumer=consumer)
        return Request()

    monkeypatch.setattr(gpiod, "request_lines", request_lines)
    options = DioOptions("dio", str(chip), ok=4, ng=7, pulse_ms=1.0, lag_ms=5000.0)
    output = DioOutput(options, Site(tmp_path))
    output.open()
    output.emit(a_result(1), None)
    output.emit(a_result(3), None)
    output.close()
    ((lines, settings),) = asked["config"].items()
    assert (asked["path"], lines, asked["released"]) == (str(chip), (4, 7), True)
    assert settings.direction == gpiod.line.Direction.OUTPUT
    assert settings.output_value == gpiod.line.Value.INACTIVE
    on, off = gpiod.line.Value.ACTIVE, gpiod.line.Value.INACTIVE
    assert seen == [(4, on), (4, off), (7, on), (7, off)]


def test_a_chip_that_is_not_there_is_said(tmp_path: Path) -> None:
    pytest.importorskip("gpiod", reason="pip install sanflow[dio]")
    output = DioOutput(DioOptions("dio", str(tmp_path / "gpiochip9"), ok=1), Site(tmp_path))
    with pytest.raises(OutputError, match=r"there is no .*gpiochip9; `gpiodetect` lists"):
        output.open()
