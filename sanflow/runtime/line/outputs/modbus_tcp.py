"""Modbus TCP as a station needs it: a server of registers, and a client that switches coils.

Written out, a page of a protocol that does not change, because the server decides whether a
trigger is lost: pymodbus 3.16's answers one request per TCP segment and forgets the others in it,
and after a byte of rubbish it takes nothing more from that connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

HEADER = struct.Struct(">HHHB")
"""Transaction, protocol 0, bytes that follow from the unit on, unit."""
LONGEST = 254
"""Bytes from the unit on."""
MOST_READ, MOST_WRITTEN = 125, 123
"""Registers in one request."""
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
CLIENTS = 16
"""Connections at a time; one more is closed at once."""
UNREAD = 65536
"""Bytes of answers that a client may leave unread."""


class Memory(Protocol):
    """What is served; both return None for registers that may not be had."""

    def read(self, address: int, count: int) -> Sequence[int] | None:
        """`count` registers of one moment."""

    def write(self, address: int, words: Sequence[int]) -> object | None:
        """The client writes these."""


def answer(request: bytes, memory: Memory) -> bytes:
    """The answer to one request, both from the function code on."""
    function, rest = request[0], request[1:]
    known = _FUNCTIONS.get(function)
    if known is None:
        return bytes([function | 0x80, ILLEGAL_FUNCTION])
    try:
        return bytes([function]) + known(rest, memory)
    except (struct.error, ValueError):
        return bytes([function | 0x80, ILLEGAL_VALUE])
    except IndexError:
        return bytes([function | 0x80, ILLEGAL_ADDRESS])


def _read(rest: bytes, memory: Memory) -> bytes:
    address, count = struct.unpack(">HH", rest)
    if not 1 <= count <= MOST_READ:
        raise ValueError(count)
    words = memory.read(address, count)
    if words is None:
        raise IndexError(address)
    return struct.pack(f">B{count}H", 2 * count, *words)


def _write_one(rest: bytes, memory: Memory) -> bytes:
    address, word = struct.unpack(">HH", rest)
    _store(memory, address, [word])
    return rest


def _write_several(rest: bytes, memory: Memory) -> bytes:
    address, count, size = struct.unpack_from(">HHB", rest)
    if not 1 <= count <= MOST_WRITTEN or size != 2 * count:
        raise ValueError(count)
    _store(memory, address, struct.unpack(f">{count}H", rest[5:]))
    return rest[:4]


def _write_and_read(rest: bytes, memory: Memory) -> bytes:
    _read(rest[:4], memory)  # refused as a whole or not at all
    _write_several(rest[4:], memory)
    return _read(rest[:4], memory)


def _store(memory: Memory, address: int, words: Sequence[int]) -> None:
    if memory.write(address, words) is None:
        raise IndexError(address)


_FUNCTIONS: dict[int, Callable[[bytes, Memory], bytes]] = {
    3: _read,
    4: _read,
    6: _write_one,
    16: _write_several,
    23: _write_and_read,
}


class Server:
    """A listening address; all of it runs in one asyncio loop."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.clients: set[asyncio.Transport] = set()
        self.requests = 0
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Take connections; OSError if the address is not to be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port)

    async def close(self) -> None:
        """Let all connections go."""
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.abort()


class _Connection(asyncio.Protocol):
    """One client: its requests are answered in their order, however they are cut up."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._server.clients) >= CLIENTS:
            transport.abort()
            return
        self._server.clients.add(transport)
        _notice_the_dead(transport.get_extra_info("socket"))

    def connection_lost(self, error: Exception | None) -> None:
        self._server.clients.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        answers = []
        while len(self._received) >= HEADER.size:
            transaction, protocol, size, unit = HEADER.unpack_from(self._received)
            if protocol != 0 or not 2 <= size <= LONGEST:
                # Where the next request begins is not known any more: the client connects again.
                self._transport.abort()
                return
            end = HEADER.size - 1 + size
            if len(self._received) < end:
                break
            request, self._received = self._received[HEADER.size : end], self._received[end:]
            self._server.requests += 1
            found = answer(request, self._server.memory)
            answers.append(HEADER.pack(transaction, 0, len(found) + 1, unit) + found)
        if answers:
            self._transport.write(b"".join(answers))
        if self._transport.get_write_buffer_size() > UNREAD:
            self._transport.abort()


def _notice_the_dead(connection: socket.socket) -> None:
    """A PLC that lost its power says no goodbye: without a sign of life it goes after a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Coils:
    """A client of a remote I/O module."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        """Connect; OSError if nobody answers within `timeout` seconds."""
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transaction = 0

    def set(self, coil: int, on: bool) -> None:
        """Switch one, and see that it is taken; OSError if not. After one, connect again."""
        self._transaction = self._transaction % 65535 + 1
        header = HEADER.pack(self._transaction, 0, 6, 1)
        self._socket.sendall(header + struct.pack(">BHH", 5, coil, 0xFF00 if on else 0))
        _, _, size, _ = HEADER.unpack(taken := self._receive(HEADER.size))
        said = self._receive(max(0, size - 1))
        if taken != header or said[:1] != b"\x05":
            raise ConnectionError(f"coil {coil} is refused: {said.hex(' ') or 'no answer'}")

    def close(self) -> None:
        """Let go."""
        self._socket.close()

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the connection was closed")
            data += more
        return data
