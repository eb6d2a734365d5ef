"""Results by POST to an HTTP server, from the archive: many at a time when it lags behind.

The body is `{"station": ..., "results": [...]}`. Any answer 2xx takes all of them; 400, 413 and 422
refuse what was sent, which is tried one by one and then left out; anything else is tried again.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from .... import __version__, schema
from ..output import OutputError
from . import Site
from .forward import Forwarder, Row
from .options import WebhookOptions

REFUSED = (400, 413, 422)


class WebhookOutput(Forwarder):
    """One address."""

    def __init__(self, options: WebhookOptions, site: Site) -> None:
        """Raises InputError if a file is not there, or holds no secret where it should."""
        self._url = urlsplit(options.url)
        super().__init__(options.name, site.archive)
        self._options = options
        self._station = site.name
        self._token = site.secret(options.token_file)
        self._secret = site.secret(options.secret_file)
        self._authority = site.file(options.ca_file)
        self._refused = 0
        self.batch = options.batch

    def open(self) -> None:
        """Begin to send what waits; OutputError if `ca_file` is no certificate."""
        # Here, and before anything is begun: whatever fails in `open` holds up no other output.
        self._context = self._trust(self._authority)
        super().open()

    def health(self) -> dict[str, Any]:
        """As Forwarder.health, and how many results the server refused for good."""
        return {**super().health(), "refused": self._refused}

    def send(self, rows: Sequence[Row]) -> None:
        """Post; OutputError if the server does not take it now."""
        wanted = [r for r in rows if self._options.only == "all" or r[1].verdict == "NG"]
        if not wanted:
            return
        status, said = self._post(wanted)
        if 200 <= status < 300:
            return
        if status not in REFUSED:
            raise OutputError(f"{self.name} answers {status} {said}")
        if len(wanted) == 1:
            self._refused += 1
            self._failed(OutputError(f"{self.name} refuses a result: {status} {said}"))
            return
        for row in wanted:
            self.send([row])

    def _post(self, rows: Sequence[Row]) -> tuple[int, str]:
        results = [{"id": id, **schema.dump(result)} for id, result in rows]
        body = json.dumps({"station": self._station, "results": results}, allow_nan=False).encode()
        connection = self._connect()
        try:
            path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
            connection.request("POST", path, body, self._headers(body, rows))
            answer = connection.getresponse()
            answer.read(65536)
            return answer.status, answer.reason
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise OutputError(f"{self.name} does not answer: {why}") from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeout = self._url.hostname or "", self._url.port, self._options.timeout_s
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context)

    def _trust(self, authority: str | None) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=authority)
        except OSError as error:  # ssl.SSLError is one
            raise OutputError(
                f"{authority} cannot be used ({error}); expected a PEM file"
            ) from None

    def _headers(self, body: bytes, rows: Sequence[Row]) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"sanflow/{__version__}",
            # The same for the same results, so that a server can tell a repeated request.
            "Idempotency-Key": f"{rows[0][1].run}-{rows[0][0]}-{rows[-1][0]}",
        }
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._secret:
            signed = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Sanflow-Signature"] = f"sha256={signed}"
        return headers
