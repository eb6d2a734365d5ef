"""The Modbus server, asked by a real master over TCP, and by hand-made frames."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("pymodbus", reason="pip install pymodbus")
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.client import AsyncModbusTcpClient, ModbusTcpClient

from sanflow.runtime.line.output import OutputError
from sanflow.runtime.line.outputs import Site
from sanflow.runtime.line.outputs import registers as r
from sanflow.runtime.line.outputs.modbus import ModbusOutput
from sanflow.runtime.line.outputs.modbus_tcp import CLIENTS, answer
from sanflow.runtime.line.outputs.options import ModbusOptions

from .conftest import a_result, a_state, eventually, free_port, rejected
from .test_registers import record


class Station:
    """What a PLC's requests arrive at; every part gets its verdict a little later."""

    def __init__(self, output: ModbusOutput, delay: float = 0.0) -> None:
        self.output, self.delay = output, delay
        self.parts: list[int] = []
        self.bundles: list[str] = []

    def trigger(self, part: int) -> None:
        self.parts.append(part)
        result = a_result(len(self.parts), part=part)
        threading.Timer(self.delay, self.output.emit, (result, None)).start()

    def swap(self, bundle: str) -> None:
        self.bundles.append(bundle)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[ModbusOutput]:
    options = ModbusOptions("modbus", "127.0.0.1", free_port(), ("one", "/bundles/two"))
    output = ModbusOutput(options, Site(tmp_path))
    output.open()
    yield output
    output.close()


@pytest.fixture
def master(output: ModbusOutput) -> Iterator[ModbusTcpClient]:
    master = ModbusTcpClient("127.0.0.1", port=output._options.port)
    assert master.connect()
    yield master
    master.close()


def read(master: ModbusTcpClient, at: int, count: int) -> list[int]:
    found = master.read_holding_registers(at, count=count)
    assert not found.isError(), found
    return list(found.registers)


def test_a_handshake_part_by_part(output: ModbusOutput, master: ModbusTcpClient) -> None:
    station = Station(output, 0.01)
    output.attach(station)
    output.announce(a_state())
    master.write_registers(0, [0, 0, 0])
    assert read(master, r.STATUS + 2, 1) == [r.READY | r.ARMED]
    for trigger in range(1, 31):
        part = 100_000 + 7 * trigger
        master.write_registers(0, [trigger, part >> 16, part & 65535])

        def verdict(part: int = part) -> dict[str, object] | None:
            found = record(read(master, r.LATEST, r.RECORD), 0)
            return found if found["part"] == part else None

        found = eventually(verdict)
        assert found["verdict"] == (r.NG if trigger % 3 == 0 else r.OK)
        echo = read(master, r.STATUS + 4, 3)
        assert echo == [trigger, part >> 16, part & 65535]
        assert read(master, r.STATUS + 2, 1) == [r.READY | r.ARMED]
    assert station.parts == [100_000 + 7 * trigger for trigger in range(1, 31)]
    assert output.health()["triggers"] == 30


def test_input_registers_and_every_unit_id_say_the_same(
    output: ModbusOutput, master: ModbusTcpClient
) -> None:
    output.emit(a_result(3), None)
    expected = read(master, r.STATUS, 100)
    for unit in (0, 1, 17, 255):
        assert list(master.read_input_registers(r.STATUS, count=100, device_id=unit).registers) == (
            expected
        )


def test_only_the_plcs_registers_can_be_written(
    output: ModbusOutput, master: ModbusTcpClient
) -> None:
    for address, words in ((r.LATEST + 4, [r.OK]), (7, [1, 1]), (r.STATUS, [9]), (r.END, [1])):
        assert master.write_registers(address, words).isError()
        assert master.write_register(r.LATEST + 4, r.OK).isError()
    assert master.write_coil(0, True).isError()
    assert master.read_coils(0, count=8).isError()
    assert master.read_holding_registers(r.END, count=1).isError()
    assert read(master, r.LATEST, r.RECORD) == [0] * r.RECORD


def test_recipes_by_number(output: ModbusOutput, master: ModbusTcpClient, tmp_path: Path) -> None:
    station = Station(output)
    output.attach(station)
    master.write_register(3, 2)
    master.write_register(3, 2)
    master.write_register(3, 3)
    assert station.bundles == ["/bundles/two"]
    assert "recipe 3" in output.health()["error"]  # the station makes a warning of it
    assert read(master, r.STATUS + 7, 1) == [3]
    master.write_register(3, 1)
    assert output.health()["error"] == ""
    # As every path of an output: it lies in the station's folder.
    assert station.bundles[1:] == [str(tmp_path / "one")]


def test_a_station_that_raises_costs_no_connection(
    output: ModbusOutput, master: ModbusTcpClient
) -> None:
    class Broken(Station):
        def trigger(self, part: int) -> None:
            raise RuntimeError("no room")

    output.attach(Broken(output))
    master.write_registers(0, [0])
    assert not master.write_registers(0, [1, 0, 5]).isError()
    assert output.health()["error"] == "no room"
    assert not read(master, r.STATUS + 2, 1)[0] & r.BUSY
    assert read(master, r.STATUS, 1) == [r.LAYOUT]


def test_no_read_sees_half_a_result(output: ModbusOutput) -> None:
    """Verdict, reason and part of a record belong together however fast results come."""
    done = threading.Event()

    def emit() -> None:
        number = 0
        while not done.is_set():
            number += 1
            output.emit(rejected(number) if number % 2 else a_result(number * 6 + 1), None)

    async def poll() -> int:
        master = AsyncModbusTcpClient("127.0.0.1", port=output._options.port)
        await master.connect()
        seen = 0
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            words = (await master.read_holding_registers(r.LATEST, count=r.RECORD)).registers
            found = record(words, 0)
            if not found["number"]:
                continue
            assert found["part"] == found["number"] + 1000
            assert (found["reason"] == "deadline") == (found["verdict"] == r.NG)
            assert (found["flags"] == r.LATE) == (found["verdict"] == r.NG)
            seen += 1
        master.close()
        return seen

    thread = threading.Thread(target=emit)
    thread.start()
    try:
        assert asyncio.run(poll()) > 20
    finally:
        done.set()
        thread.join()


def frame(transaction: int, pdu: bytes, unit: int = 1) -> bytes:
    """As the specification has it."""
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


def triggering(number: int, part: int) -> bytes:
    """Write registers 0 to 2."""
    return struct.pack(">BHHBHHH", 16, 0, 3, 6, number, part >> 16, part & 65535)


def test_frames_by_hand_as_the_specification_has_them(output: ModbusOutput) -> None:
    output.emit(a_result(3), None)
    with socket.create_connection(("127.0.0.1", output._options.port), 5) as plc:
        plc.sendall(frame(0x1234, struct.pack(">BHH", 3, r.LATEST, 5), unit=9))
        header = plc.recv(260)
        assert header[:9] == struct.pack(">HHHBBB", 0x1234, 0, 13, 9, 3, 10)
        assert struct.unpack(">5H", header[9:]) == (0, 3, 0, 1003, r.NG)


@pytest.mark.parametrize("cut", [1, 3, 7, 12, 1000])
def test_requests_in_one_segment_or_in_many_are_all_answered(
    cut: int, output: ModbusOutput
) -> None:
    """A network that repeats what was lost joins what a PLC sent apart."""
    station = Station(output)
    output.attach(station)
    sent = [frame(0, triggering(0, 0)), *(frame(n, triggering(n, n)) for n in range(1, 41))]
    stream = b"".join(sent)
    with socket.create_connection(("127.0.0.1", output._options.port), 5) as plc:
        plc.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(stream), cut):
            plc.sendall(stream[at : at + cut])
        answers = b""
        while len(answers) < 41 * 12:
            answers += plc.recv(4096)
    expected = [frame(n, struct.pack(">BHH", 16, 0, 3)) for n in range(41)]
    assert answers == b"".join(expected)
    assert station.parts == list(range(1, 41))


def test_who_sends_rubbish_is_cut_off_and_may_come_again(output: ModbusOutput) -> None:
    output.emit(a_result(3), None)
    master = ModbusTcpClient("127.0.0.1", port=output._options.port)
    assert master.connect()
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", bytes(300), b"\x00\x01\x00\x00\xff\xff\x01" * 3):
        with socket.create_connection(("127.0.0.1", output._options.port), 5) as other:
            other.sendall(rubbish)
            with contextlib.suppress(ConnectionError):
                assert other.recv(100) == b""
    assert read(master, r.LATEST, 4)[3] == 1003
    master.close()


def test_who_reads_no_answers_is_cut_off(output: ModbusOutput) -> None:
    asking = frame(1, struct.pack(">BHH", 3, 0, 125)) * 500
    with socket.create_connection(("127.0.0.1", output._options.port), 5) as plc:
        plc.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(ConnectionError):  # noqa: PT012  # some time, when all buffers are full
            for _ in range(10_000):
                plc.sendall(asking)
    eventually(lambda: output.health()["clients"] == 0)


def test_more_clients_than_a_station_has_are_turned_away(output: ModbusOutput) -> None:
    address = ("127.0.0.1", output._options.port)
    held = [socket.create_connection(address, 5) for _ in range(CLIENTS)]
    eventually(lambda: output.health()["clients"] == CLIENTS)
    with socket.create_connection(address, 5) as one_more, contextlib.suppress(ConnectionError):
        assert one_more.recv(10) == b""
    for connection in held:
        connection.close()
    eventually(lambda: output.health()["clients"] == 0)


class Words:
    """A hundred registers, of which the first ten may be written."""

    def __init__(self) -> None:
        self.words = list(range(100))

    def read(self, address: int, count: int) -> list[int] | None:
        return self.words[address : address + count] if address + count <= 100 else None

    def write(self, address: int, words: Sequence[int]) -> bool | None:
        if address + len(words) > 10:
            return None
        self.words[address : address + len(words)] = words
        return True


@pytest.mark.parametrize(
    ("request_", "answered"),
    [
        ("03 0005 0002", "03 04 0005 0006"),
        ("04 0063 0001", "04 02 0063"),
        ("03 0063 0002", "83 02"),
        ("03 0000 0000", "83 03"),
        ("03 0000 007e", "83 03"),
        ("03 0000", "83 03"),
        ("06 0001 beef", "06 0001 beef"),
        ("06 000a beef", "86 02"),
        ("10 0001 0002 04 dead beef", "10 0001 0002"),
        ("10 0001 0002 05 dead beef", "90 03"),
        ("10 0001 0002 04 dead", "90 03"),
        ("10 0009 0002 04 dead beef", "90 02"),
        ("17 0000 0003 0001 0001 02 beef", "17 06 0000 beef 0002"),
        ("17 0000 0003 0009 0002 04 dead beef", "97 02"),
        ("17 0064 0001 0001 0001 02 beef", "97 02"),
        ("01 0000 0001", "81 01"),
        ("2b 0e 01 00", "ab 01"),
    ],
)
def test_each_function_as_the_specification_has_it(request_: str, answered: str) -> None:
    memory = Words()
    before = memory.words.copy()
    found = answer(bytes.fromhex(request_), memory)
    assert found == bytes.fromhex(answered)
    if found[0] & 0x80:
        assert memory.words == before


@given(request_=st.binary(min_size=1, max_size=253))
def test_whatever_is_asked_is_answered(request_: bytes) -> None:
    memory = Words()
    found = answer(request_, memory)
    assert found[0] & 0x7F == request_[0] & 0x7F
    assert 2 <= len(found) <= 253
    assert memory.words[10:] == list(range(10, 100))


def test_a_master_that_goes_away_and_comes_back(output: ModbusOutput) -> None:
    station = Station(output)
    output.attach(station)
    for life in range(5):
        master = ModbusTcpClient("127.0.0.1", port=output._options.port)
        assert master.connect()
        if life == 0:
            master.write_registers(0, [0])
        master.write_registers(0, [life + 1, 0, life])
        # Without a farewell, as when the cable is drawn.
        assert master.socket is not None
        linger = struct.pack("ii", 1, 0)
        master.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        master.close()
    assert station.parts == list(range(5))
    eventually(lambda: output.health()["clients"] == 0)


def test_at_the_end_connections_are_let_go(tmp_path: Path) -> None:
    output = ModbusOutput(ModbusOptions("modbus", "127.0.0.1", free_port()), Site(tmp_path))
    output.open()
    master = ModbusTcpClient("127.0.0.1", port=output._options.port, retries=0, timeout=1)
    assert master.connect()
    output.close()
    output.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", output._options.port)) != 0
    master.close()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        options = ModbusOptions("modbus", "127.0.0.1", other.getsockname()[1])
        with pytest.raises(OutputError, match=r"\(Address already in use\); is the port taken"):
            ModbusOutput(options, Site(tmp_path)).open()
