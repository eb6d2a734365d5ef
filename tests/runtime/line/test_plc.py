"""A PLC and the whole station: a real Modbus master triggers parts, reads verdicts, swaps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("pymodbus", reason="pip install pymodbus")
from pymodbus.client import ModbusTcpClient

from sanflow.bundle import Bundle
from sanflow.runtime.line.outputs import Site, load_options, make_outputs
from sanflow.runtime.line.outputs import registers as r

from .outputs.conftest import free_port
from .station_kit import broken_promises, running, station, stricter, until


class Plc:
    """Triggers one part after the other and takes a verdict for it only if its id stands there."""

    def __init__(self, port: int) -> None:
        self._master = ModbusTcpClient("127.0.0.1", port=port)
        until(self._master.connect)
        self._number = 0
        self._write(r.TRIGGER, 0)

    def ready(self) -> bool:
        return bool(self._read(r.STATUS + 2, 1)[0] & r.READY)

    def inspect(self, part: int) -> int:
        """The verdict of a part: r.OK, r.NG, or 0 if none came within 5 s."""
        self._number = self._number % 65535 + 1
        self._write(r.TRIGGER, self._number, part >> 16, part & 0xFFFF)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            high, low, verdict = self._read(r.LATEST + 2, 3)
            if high << 16 | low == part:
                return verdict
        return 0

    def recipe(self, number: int) -> None:
        self._write(r.RECIPE, number)

    def close(self) -> None:
        self._master.close()

    def _read(self, at: int, count: int) -> list[int]:
        found = self._master.read_holding_registers(at, count=count)
        assert not found.isError(), found
        return list(found.registers)

    def _write(self, at: int, *words: int) -> None:
        assert not self._master.write_registers(at, list(words)).isError()


def test_a_plc_gets_the_verdict_of_each_part_it_triggers(bundle: Bundle, tmp_path: Path) -> None:
    other, port = stricter(bundle, tmp_path / "other"), free_port()
    table = {"kind": "modbus", "host": "127.0.0.1", "port": port, "recipes": [str(other.path)]}
    outputs = make_outputs(load_options([table], None), Site(tmp_path), fast=True)
    made, seen = station(
        bundle,
        tmp_path / "s",
        "sim:noise?size=24x20&drop=9",
        outputs=outputs,
        source__trigger="software",
        deadline="400ms",
    )
    parts = [70_000 + 3 * number for number in range(30)]
    with running(made):
        plc = Plc(port)
        until(plc.ready)
        verdicts = {part: plc.inspect(part) for part in parts}
        plc.recipe(1)
        until(lambda: made.keeper.bundle == other.manifest.digest)
        assert [plc.inspect(part) for part in (1, 2, 3)] == [r.NG] * 3
        plc.close()
    assert [result.part for result in seen.results] == [*parts, 1, 2, 3]
    assert not [p for p in broken_promises(seen.results) if "out of order" not in p]
    for result in seen.results[: len(parts)]:
        assert verdicts[result.part] == (r.OK if result.verdict == "OK" else r.NG)
    assert {result.reason for result in seen.results} == {"", "score", "no_image"}
