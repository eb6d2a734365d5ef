"""The monitor, an output of the slow side: told of each result, it keeps all views up to date."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

from ..config import seconds
from ..output import Output, OutputError, Picture, StationState
from ..outputs import Site
from ..result import PartResult
from .health import Health
from .metrics import Metrics, exposition
from .options import MonitorOptions
from .page import FILES, Board, read
from .server import Answer, Request, Route, Server
from .summary import Summary, written
from .watch import Watch

DAYS = 31
"""That are shown."""


class MonitorOutput(Output):
    """One HTTP port with everything that there is to see."""

    def __init__(self, options: MonitorOptions, site: Site) -> None:
        super().__init__("monitor")
        self._options, self._name = options, site.name
        self._others: Callable[[], dict[str, dict[str, Any]]] = dict
        self._health = Health(seconds(options.stale))
        self._watch = Watch(options, site.folder)
        self._metrics = Metrics(
            site.name, self._health, lambda: self._others(), self._watch.evidence
        )
        self._board = Board(site.folder)
        self._summary = Summary(site.folder, options.keep_days)
        self._server: Server | None = None

    def meet(self, others: Callable[[], dict[str, dict[str, Any]]]) -> None:
        """`others` says how every slow output fares."""
        self._others = others

    def open(self) -> None:
        """Listen; OutputError if the port is not to be had, which is tried again."""
        host, port = self._options.host, self._options.port
        try:
            self._server = Server(host, port, self._routes())
        except OSError as error:
            raise OutputError(
                f"{host}:{port} cannot be listened on: {error.strerror}; give another [monitor] "
                f"{'host' if isinstance(error, socket.gaierror) else 'port'}"
            ) from None

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """Bring every view up to date."""
        if not self._summary.count(result):
            return
        self._metrics.count(result)
        self._board.count(result, picture)
        for alarm in self._watch.look(result):
            self._summary.alarm(alarm.signal)
        self._summary.save()

    def announce(self, state: StationState) -> None:
        """The station's state changed, or its heart beat."""
        self._health.announce(state)
        self._summary.announce(state)
        self._summary.save()

    def health(self) -> dict[str, Any]:
        """What the disk did not take."""
        return {"error": self._summary.trouble}

    def close(self) -> None:
        """Write the day's summary, listen no more."""
        self._summary.save(force=True)
        if self._server is not None:
            self._server.close()
            self._server = None

    def _routes(self) -> dict[str, Route]:
        files: dict[str, Route] = {
            path: partial(_file, read(name), content) for path, (name, content) in FILES.items()
        }
        return {
            **files,
            "/now": self._show_now,
            "/reject.png": self._show_reject,
            "/metrics": self._show_metrics,
            "/health": self._show_health,
            "/summary": self._show_summary,
        }

    def _show_metrics(self, request: Request) -> Answer:
        return Answer(*exposition(self._metrics, request.accept))

    def _show_health(self, request: Request) -> Answer:
        document = self._health.document(self._others(), self._watch.document())
        return _json(document, 200 if document["healthy"] else 503)

    def _show_now(self, request: Request) -> Answer:
        health = self._health.document(self._others(), self._watch.document())
        today = self._summary.today()
        return _json(
            {"station": self._name, "health": health, "today": today, **self._board.document()}
        )

    def _show_reject(self, request: Request) -> Answer:
        picture = self._board.picture(unquote(request.query))
        if picture is None:
            return Answer(b"no such reject, or too many others since\n", "text/plain", 404)
        return Answer(picture, "image/png")

    def _show_summary(self, request: Request) -> Answer:
        return _json([written(day) for day in self._summary.days(DAYS)])


def _file(body: bytes, content: str, request: Request) -> Answer:
    return Answer(body, content)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json", status)
