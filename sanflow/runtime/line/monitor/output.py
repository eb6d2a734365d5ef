"""The monitor, an output of the slow side: told of each result, it keeps all views up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..config import seconds
from ..output import Output, OutputError, Picture, StationState
from ..outputs import Site
from ..result import PartResult
from .health import Health
from .metrics import Metrics, exposition
from .options import MonitorOptions
from .server import Answer, Route, Server
from .summary import Summary, written
from .watch import Watch

DAYS = 31
"""That are shown."""


class MonitorOutput(Output):
    """One HTTP port with everything that there is to see."""

    def __init__(self, options: MonitorOptions, site: Site) -> None:
        super().__init__("monitor")
        self._options = options
        self._others: Callable[[], dict[str, dict[str, Any]]] = dict
        self._health = Health(seconds(options.stale))
        self._watch = Watch(options, site.folder)
        self._metrics = Metrics(
            site.name, self._health, lambda: self._others(), self._watch.evidence
        )
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
                f"{host}:{port} cannot be listened on: {error.strerror}; another [monitor] port?"
            ) from None

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """Bring every view up to date."""
        if not self._summary.count(result):
            return
        self._metrics.count(result)
        for alarm in self._watch.look(result):
            self._summary.alarm(alarm.signal)
        self._summary.save()

    def announce(self, state: StationState) -> None:
        """The station's state changed, or its heart beat."""
        self._health.announce(state)
        self._summary.announce(state)

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
        return {
            "/metrics": self._show_metrics,
            "/health": self._show_health,
            "/summary": self._show_summary,
        }

    def _show_metrics(self, accept: str) -> Answer:
        return Answer(*exposition(self._metrics, accept))

    def _show_health(self, accept: str) -> Answer:
        document = self._health.document(self._others(), self._watch.document())
        return _json(document, 200 if document["healthy"] else 503)

    def _show_summary(self, accept: str) -> Answer:
        return _json([written(day) for day in self._summary.days(DAYS)])


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json", status)
