"""An OPC UA server for MES and SCADA: the station's states and results, to read and to listen to.

It starts in its own thread, which takes seconds, and starts again if it cannot. What comes faster
than it tells is dropped here and counted: events are news, the archive is the record.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import threading
from collections import deque
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import USER_TYPES, PermissionRuleset, User, UserRole
from asyncua.server.user_managers import UserManager

from ..output import Output, Picture, StationState
from ..result import PartResult
from . import Site
from .options import OpcuaOptions
from .vision import Vision

WAITING = 1000
"""Results that may wait to be told, as while the server starts."""
AGAIN = 5.0
"""Seconds until a server that could not start tries again."""

_READING = {ua.NodeId(kind) for kind in USER_TYPES} - {
    ua.NodeId(ua.ObjectIds.WriteRequest_Encoding_DefaultBinary)
}


_log = logging.getLogger(__name__)


class OpcuaOutput(Output):
    """One server."""

    def __init__(self, options: OpcuaOptions, site: Site) -> None:
        """Raises InputError if a file with a secret or a certificate cannot be read."""
        super().__init__(options.name)
        self._options = options
        self._station = site.name
        self._certificate = site.file(options.certificate_file)
        self._key = site.file(options.key_file)
        self._password = site.secret(options.password_file)
        self._waiting: deque[PartResult] = deque(maxlen=WAITING)
        self._state: StationState | None = None
        self._counts = {"told": 0, "dropped": 0}
        self._listening = False
        self._error = ""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to start the server."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live()), name="sanflow-opcua", daemon=True
        )
        self._thread.start()

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """It is told as soon as the server comes to it."""
        self._counts["dropped"] += len(self._waiting) == WAITING
        self._waiting.append(result)

    def announce(self, state: StationState) -> None:
        """The latest one is shown."""
        self._state = state

    def health(self) -> dict[str, Any]:
        """Whether it listens; results told, dropped and waiting; the last error."""
        waiting = len(self._waiting)
        return {
            "listening": self._listening,
            **self._counts,
            "waiting": waiting,
            "error": self._error,
        }

    def close(self) -> None:
        """Tell what waits, and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(AGAIN)
            self._thread = None

    async def _live(self) -> None:
        # It writes a traceback for each port that is taken; we say so once, in a line.
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)
        while not self._stopping.is_set():
            try:
                await self._serve()
            except Exception as error:  # a port that is taken now may be free later
                self._failed(error)
                self._listening = False
                await asyncio.to_thread(self._stopping.wait, AGAIN)

    def _failed(self, error: Exception) -> None:
        text = str(error) or repr(error)
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            text = (
                f"cannot listen at {self._options.host}:{self._options.port}, another program does"
            )
        if text != self._error:
            _log.warning("%s: %s", self.name, text)
        self._error = text

    async def _serve(self) -> None:
        server = Server(user_manager=_Users(self._options.username, self._password))
        await server.init()
        await self._secure(server)
        server.set_endpoint(f"opc.tcp://{self._options.host}:{self._options.port}/sanflow")
        server.set_server_name(f"sanflow {self._station}")
        vision = Vision(server, self._options.keep)
        await vision.build(self._station)
        await server.start()
        self._listening, self._error = True, ""
        try:
            while not self._stopping.is_set() or self._waiting:
                await self._tell(vision)
                await asyncio.sleep(0.01)
        finally:
            self._listening = False
            await server.stop()

    async def _tell(self, vision: Vision) -> None:
        state, self._state = self._state, None
        if state is not None:
            await vision.state(state)
        while self._waiting:
            result = self._waiting.popleft()
            try:
                await vision.result(result)
                self._counts["told"] += 1
                self._error = ""
            except Exception as error:  # the next one may be told all the same
                self._counts["dropped"] += 1
                self._error = f"result {result.result}: {error!r}"

    async def _secure(self, server: Server) -> None:
        policy = ua.SecurityPolicyType.NoSecurity
        if self._certificate and self._key:
            await server.load_certificate(self._certificate)
            await server.load_private_key(self._key)
            policy = ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt
        server.set_security_policy([policy], _ReadOnly())
        kinds = [ua.UserNameIdentityToken if self._options.username else ua.AnonymousIdentityToken]
        server.set_identity_tokens(kinds)


class _Users(UserManager):  # type: ignore[misc]
    """One user with a password, or anybody if there is none."""

    def __init__(self, username: str, password: str) -> None:
        self._username, self._password = username, password

    def get_user(
        self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        given = f"{username}\0{password}".encode()
        if self._username and not hmac.compare_digest(
            given, f"{self._username}\0{self._password}".encode()
        ):
            return None
        return User(role=UserRole.User)


class _ReadOnly(PermissionRuleset):  # type: ignore[misc]
    """Nobody writes, whatever a node's own access level says."""

    def check_validity(self, user: Any, action_type_id: Any, body: Any) -> bool:
        return action_type_id in _READING
