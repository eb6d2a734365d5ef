"""A small HTTP server: a table of addresses, each answered by a function; it changes nothing.

Answers are made when they are asked for, in threads of their own, at most `MOST` at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

MOST = 16
"""Connections at a time; more are closed at once."""
PATIENCE = 10.0
"""Seconds for a request to come, and for an answer to be taken."""

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self'"
)
"""What a browser may load for a page of ours: nothing from anywhere else. `data:` is what stands in
the page itself, its empty icon."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    body: bytes
    content: str
    status: int = 200


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    query: str
    """What stands behind the question mark."""
    accept: str
    """Formats that the answer may have, as the header says them."""


Route = Callable[[Request], Answer]


class Server:
    """Answers GET and HEAD in the background."""

    def __init__(self, host: str, port: int, routes: Mapping[str, Route]) -> None:
        """Listen at once; OSError if the address is taken or none of this machine's."""
        self._free = threading.BoundedSemaphore(MOST)
        free = self._free

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def process_request(self, request: Any, client_address: Any) -> None:
                if not free.acquire(blocking=False):
                    self.shutdown_request(request)
                    return
                super().process_request(request, client_address)

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    free.release()

            def handle_error(self, request: Any, client_address: Any) -> None:
                _log.debug("a request failed", exc_info=True)  # who asked went away

        self._server = Listener((host, port), _handler(routes))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="sanflow-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _handler(routes: Mapping[str, Route]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE
        server_version, sys_version = "sanflow", ""

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            route = routes.get(asked.path)
            if route is None:
                known = ", ".join(routes)
                answer = Answer(f"no such page; there are {known}\n".encode(), "text/plain", 404)
            else:
                try:
                    answer = route(Request(asked.query, self.headers.get("Accept", "")))
                except Exception:
                    _log.exception("%s failed", self.path)
                    answer = Answer(b"this page failed; the log says why\n", "text/plain", 500)
            self._send(answer)

        do_HEAD = do_GET

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads who looked at the page."""

    return Handler
