"""Webhooks against a real HTTP server that fails in every way a server fails."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sanflow.runtime.line.output import OutputError
from sanflow.runtime.line.outputs import Site
from sanflow.runtime.line.outputs.archive import ArchiveOutput
from sanflow.runtime.line.outputs.options import ArchiveOptions, WebhookOptions
from sanflow.runtime.line.outputs.store import Store
from sanflow.runtime.line.outputs.webhook import WebhookOutput

from .conftest import a_result, certificates, eventually, free_port


class Server(ThreadingHTTPServer):
    """Keeps what it is sent; `answers` are given first, then 200."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.hang = 0.0
        self.refuse_part: int | None = None
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def parts(self) -> list[int]:
        return [result["part"] for body in self.bodies for result in body["results"]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        time.sleep(self.server.hang)
        found = json.loads(body)
        status = self.server.answers.pop(0) if self.server.answers else 200
        if self.server.refuse_part in [r["part"] for r in found["results"]]:
            status = 422
        if status == 200:
            self.server.bodies.append(found)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Line:
    def __init__(self, folder: Path, port: int, query: str = "", **options: Any) -> None:
        self.archive = ArchiveOutput(ArchiveOptions(pictures="none"), folder / "archive")
        url = options.pop("url", f"http://127.0.0.1:{port}/results{query}")
        site = Site(folder, "cell-7", folder / "archive")
        self.hook = WebhookOutput(WebhookOptions("webhook", url, **options), site)
        self.archive.open()
        self.hook.open()

    def emit(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.archive.emit(a_result(number), None)
            self.hook.emit(a_result(number), None)

    def close(self) -> None:
        self.hook.close()
        self.archive.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def test_all_results_are_posted_in_order_and_signed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    (tmp_path / "key").write_text("k3y\n")
    line = Line(
        tmp_path, server.server_port, "?plant=4", token_file="token", secret_file="key", batch=7
    )
    line.emit(1, 50)
    line.close()
    assert server.parts() == list(range(1001, 1051))
    assert server.bodies[0]["station"] == "cell-7"
    assert server.bodies[0]["results"][0].items() >= {"id": 1, "verdict": "OK"}.items()
    assert max(len(body["results"]) for body in server.bodies) <= 7
    for headers, body in server.requests:
        signed = hmac.new(b"k3y", body, hashlib.sha256).hexdigest()
        assert headers["X-Sanflow-Signature"] == f"sha256={signed}"
        assert headers["Authorization"] == "Bearer t0ken"
    assert len({headers["Idempotency-Key"] for headers, _ in server.requests}) == len(server.bodies)
    assert "plant" not in line.hook.name


def test_only_rejects_are_posted_if_asked(server: Server, tmp_path: Path) -> None:
    line = Line(tmp_path, server.server_port, only="ng")
    line.emit(1, 12)
    line.close()
    assert server.parts() == [1003, 1006, 1009, 1012]


@pytest.mark.parametrize("status", [500, 503, 404, 401, 301, 429])
def test_an_answer_that_may_change_is_asked_for_again(
    status: int, server: Server, tmp_path: Path
) -> None:
    server.answers = [status, status]
    line = Line(tmp_path, server.server_port)
    line.emit(1, 5)
    eventually(lambda: server.parts() == list(range(1001, 1006)))
    assert {h["Idempotency-Key"] for h, _ in server.requests[:2]}
    line.close()
    assert line.hook.health()["refused"] == 0


def test_a_result_that_is_refused_for_good_holds_up_no_other(
    server: Server, tmp_path: Path
) -> None:
    server.refuse_part = 1004
    line = Line(tmp_path, server.server_port)
    line.emit(1, 9)
    eventually(lambda: line.hook.health()["waiting"] == 0)
    line.close()
    assert server.parts() == [n for n in range(1001, 1010) if n != 1004]
    assert line.hook.health()["refused"] == 1


def test_a_server_that_hangs_holds_up_only_itself(server: Server, tmp_path: Path) -> None:
    server.hang = 30.0
    line = Line(tmp_path, server.server_port, timeout_s=0.3)
    begun = time.monotonic()
    line.emit(1, 200)
    assert time.monotonic() - begun < 5
    eventually(lambda: "does not answer" in line.hook.health()["error"])
    server.hang = 0.0
    eventually(lambda: len(set(server.parts())) == 200)
    line.close()


def test_a_server_that_was_away_over_a_restart_gets_everything(tmp_path: Path) -> None:
    port = free_port()
    line = Line(tmp_path, port)
    line.emit(1, 30)
    eventually(lambda: "does not answer" in line.hook.health()["error"])
    begun = time.monotonic()
    line.close()
    assert time.monotonic() - begun < 6
    server = Server(port)
    line = Line(tmp_path, port)
    line.emit(31, 40)
    eventually(lambda: server.parts() == list(range(1001, 1041)))
    line.close()
    server.shutdown()
    server.server_close()


def test_a_result_that_is_archived_while_it_closes_is_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive has a feed of its own, and may be behind the output that sends from it."""
    line = Line(tmp_path, server.server_port)
    real, late = line.hook.store.after, a_result(1)
    archived = threading.Event()

    def after(id: int, count: int) -> list[Any]:
        rows = real(id, count)
        if line.hook.stopping and not archived.is_set():
            line.archive.emit(late, None)
            archived.set()
        return rows

    monkeypatch.setattr(line.hook.store, "after", after)
    line.hook.emit(late, None)
    line.close()
    assert server.parts() == [1001]


def test_results_that_expired_before_they_were_sent_are_counted(tmp_path: Path) -> None:
    port = free_port()
    line = Line(tmp_path, port)
    line.emit(1, 30)
    line.close()
    store = Store(tmp_path / "archive")
    store.trim(below=21)
    store.close()
    server = Server(port)
    line = Line(tmp_path, port)
    eventually(lambda: server.parts() == list(range(1021, 1031)))
    line.close()
    assert line.hook.health()["lost"] == 20
    server.shutdown()
    server.server_close()


def test_https_of_a_plants_own_authority(server: Server, tmp_path: Path) -> None:
    ca, certificate, key = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}/results"
    line = Line(tmp_path, server.server_port, url=url)
    line.emit(1, 3)
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in line.hook.health()["error"])
    line.close()
    assert server.parts() == []
    line = Line(tmp_path, server.server_port, url=url, ca_file=str(ca))
    eventually(lambda: server.parts() == [1001, 1002, 1003])
    line.close()
    with pytest.raises(OutputError, match=r"key\.pem cannot be used .* expected a PEM file"):
        Line(tmp_path, server.server_port, url=url, ca_file=str(key))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://mes/x", "no address of an HTTP server"),
        ("https://user:word@mes/x", "token_file"),
        ("mes/results", "no address"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WebhookOptions("webhook", url)


def test_it_needs_the_archive(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"sends from the archive; add a table \[archive\]"):
        WebhookOutput(WebhookOptions("webhook", "http://mes/x"), Site(tmp_path))
