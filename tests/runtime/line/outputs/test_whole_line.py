"""`sanflow run` with a PLC, a broker, an archive and files: all of them are told the same."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt", reason="pip install sanflow[mqtt]")
pytest.importorskip("pymodbus", reason="pip install pymodbus")
from pymodbus.client import ModbusTcpClient

from sanflow.bundle import Bundle
from sanflow.runtime.line.outputs import registers as r
from sanflow.runtime.line.outputs.store import Store

from .broker_kit import Broker, Subscriber, needs_mosquitto
from .conftest import eventually, free_port
from .test_registers import record

PARTS = 60

LINE = """
[line]
deadline = "20s"
[source]
uri = "sim:noise?size=24x20&rate=200&corrupt=10"
trigger = "software"
[archive]
pictures = "all"
free_mb = 0
[[output]]
kind = "modbus"
host = "127.0.0.1"
port = {modbus}
[[output]]
kind = "mqtt"
host = "127.0.0.1"
port = {mqtt}
[[output]]
kind = "csv"
[[output]]
kind = "jsonl"
"""


@needs_mosquitto
@pytest.mark.slow
def test_a_plc_triggers_parts_and_everybody_hears_the_same(bundle: Bundle, tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        check(broker, bundle, tmp_path)


def check(broker: Broker, bundle: Bundle, tmp_path: Path) -> None:
    subscriber = Subscriber(broker)
    port = free_port()
    config = tmp_path / "line.toml"
    config.write_text(LINE.format(modbus=port, mqtt=broker.port))
    out = tmp_path / "station"
    command = [sys.executable, "-m", "sanflow", "run", str(bundle.path), "--config", str(config)]
    station = subprocess.Popen([*command, "--out", str(out), "--threads", "1"])
    try:
        told = plc(port)
        broker.stop()
        told |= plc(port, first=PARTS + 1)
        broker.start()
    finally:
        station.terminate()
        assert station.wait(60) == 0
    assert sorted(told) == list(range(1001, 1001 + 2 * PARTS))
    assert {found["reason"] for found in told.values()} == {"", "score", "incomplete"}

    rows = [result for _, result in Store(out / "archive").after(0, 1000)]
    assert [row.part for row in rows] == sorted(told)
    for row in rows:
        assert (row.verdict == "OK") == (told[row.part]["verdict"] == r.OK)
        assert row.reason == told[row.part]["reason"]
    with open(next((out / "results").glob("*.csv")), encoding="utf-8", newline="") as table:
        assert [(int(row["part"]), row["verdict"]) for row in csv.DictReader(table)] == [
            (row.part, row.verdict) for row in rows
        ]
    lines = next((out / "results").glob("*.jsonl")).read_text("utf-8").splitlines()
    assert [json.loads(line)["part"] for line in lines] == sorted(told)
    # What the broker missed while it was away the next life of the station sends.
    again = subprocess.Popen([*command, "--out", str(out), "--threads", "1"])
    try:
        heard: dict[int, dict[str, Any]] = eventually(lambda: all_of(subscriber, told), 60)
    finally:
        again.terminate()
        again.wait(60)
    assert list(heard) == sorted(told)
    assert all(heard[row.part]["verdict"] == row.verdict for row in rows)
    subscriber.close()


def all_of(subscriber: Subscriber, told: dict[int, Any]) -> dict[int, dict[str, Any]] | None:
    heard = {message["part"]: message for message in subscriber.results()}
    return heard if len(heard) >= len(told) else None


def plc(port: int, first: int = 1) -> dict[int, dict[str, Any]]:
    """What the program of a PLC does: wait for Ready, arm, trigger, wait for the part's verdict."""
    master = ModbusTcpClient("127.0.0.1", port=port, timeout=5)
    eventually(master.connect, 60)
    assert not master.write_registers(0, [0, 0, 0]).isError()

    def flags() -> int:
        return int(master.read_holding_registers(r.STATUS + 2, count=1).registers[0])

    eventually(lambda: flags() & r.READY and flags() & r.ARMED, 60)
    told = {}
    for number in range(first, first + PARTS):
        part = 1000 + number
        assert not master.write_registers(0, [number, part >> 16, part & 65535]).isError()
        found: dict[str, Any] = {}
        end = time.monotonic() + 30
        while found.get("part") != part and time.monotonic() < end:
            words = master.read_holding_registers(r.LATEST, count=r.RECORD).registers
            found = record(list(words), 0)
        assert found["part"] == part
        told[part] = found
    master.close()
    return told
