"""A small RTSP server of real H.264 over TCP, which can be told to misbehave."""

from __future__ import annotations

import base64
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator

from .film import RATE

PAYLOAD = 1200


class RtspServer:
    """Plays its packets in a loop to one client at a time, at the film's rate."""

    def __init__(self, packets: list[bytes], login: str = "") -> None:
        self._packets, self._login = packets, login
        self.frozen = threading.Event()
        """Nothing is sent; when it is cleared, all of what was held back at once."""
        self.lost: set[int] = set()
        """Pictures that are not sent."""
        self.sent = 0
        """The picture that was sent last."""
        self.requests: list[str] = []
        self._stop = threading.Event()
        self._clients: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def hang_up(self) -> None:
        """End the connection of whoever is there."""
        for client in self._clients:
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stop.set()
        self._server.close()
        for client in self._clients:
            client.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._clients = [client]
            try:
                self._talk(client)
            except OSError:
                client.close()

    def _talk(self, client: socket.socket) -> None:
        text = ""
        while data := client.recv(4096):
            text += data.decode("latin-1")
            while "\r\n\r\n" in text:
                request, _, text = text.partition("\r\n\r\n")
                self.requests.append(request)
                if self._answer(client, request) == "PLAY":
                    self._play(client)
                    return

    def _answer(self, client: socket.socket, request: str) -> str:
        method, url, _ = request.split("\r\n")[0].split(" ", 2)
        count = re.search(r"CSeq: (\d+)", request)
        head, body = f"CSeq: {count[1] if count else 0}\r\n", ""
        wanted = "Basic " + base64.b64encode(self._login.encode()).decode()
        if self._login and f"Authorization: {wanted}" not in request:
            status = "401 Unauthorized"
            head += 'WWW-Authenticate: Basic realm="camera"\r\n'
        else:
            status = "200 OK"
            if method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=film\r\nt=0 0\r\n"
                    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                    f"a=framerate:{RATE}\r\n"
                    "a=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
                )
                head += f"Content-Type: application/sdp\r\nContent-Base: {url}/\r\n"
            elif method == "SETUP":
                head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == "OPTIONS":
                head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        answer = f"RTSP/1.0 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
        client.sendall(answer.encode())
        return method if status == "200 OK" else ""

    def _play(self, client: socket.socket) -> None:
        sequence, begun = 0, time.monotonic()
        for number in range(10**9):
            if (left := begun + number / RATE - time.monotonic()) > 0:
                time.sleep(left)
            while self.frozen.is_set() and not self._stop.is_set():
                time.sleep(0.01)
            if self._stop.is_set():
                return
            index = number % len(self._packets)
            if number in self.lost:
                continue
            self.sent = number
            for last, payload in _payloads(self._packets[index]):
                stamp = (number * 90000 // RATE) & 0xFFFFFFFF
                header = struct.pack(
                    ">BBHII", 0x80, 96 | (last << 7), sequence & 0xFFFF, stamp, 0x5EED
                )
                data = header + payload
                client.sendall(b"$\0" + struct.pack(">H", len(data)) + data)
                sequence += 1


def _payloads(packet: bytes) -> Iterator[tuple[bool, bytes]]:
    """What RFC 6184 makes of a picture: single units, and fragments of the large ones."""
    units = [unit for unit in re.split(b"\0\0\0?\1", packet) if unit]
    for place, unit in enumerate(units):
        final = place == len(units) - 1
        if len(unit) <= PAYLOAD:
            yield final, unit
            continue
        kind, body = unit[0], unit[1:]
        for at in range(0, len(body), PAYLOAD):
            end = at + PAYLOAD >= len(body)
            flags = (0x80 if at == 0 else 0) | (0x40 if end else 0) | (kind & 31)
            yield final and end, bytes([(kind & 0xE0) | 28, flags]) + body[at : at + PAYLOAD]
