"""Results and the station's state to an MQTT broker, with birth, will and sequence numbers.

    PREFIX/STATION/result   each result, QoS 1, from the archive: nothing is lost while it is away
    PREFIX/STATION/state    retained: `online`, the state, the heartbeat; the will says offline

A message names its `session`, one per life of the connection's owner, and results count `seq` in
it: a subscriber sees what it missed, and which session a will belongs to.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from .... import schema
from ..output import OutputError, StationState
from . import Site
from .forward import Forwarder, Row
from .options import MqttOptions

STATE_EVERY = 1.0
"""Seconds between two states that differ in heartbeat and queue alone."""


class MqttOutput(Forwarder):
    """One broker."""

    def __init__(self, options: MqttOptions, site: Site) -> None:
        super().__init__(options.name, site.archive)
        self._options, self._site = options, site
        self._station = site.name
        self._topic = f"{options.prefix}/{re.sub('[+#/]', '_', site.name)}"
        self._session = uuid.uuid4().hex
        self._seq = 0
        self._state: dict[str, Any] = {}
        self._said_at = 0.0
        self._acknowledged = threading.Condition()
        self._connected = threading.Event()
        self._stored_upto = 0
        self._client: mqtt.Client

    def open(self) -> None:
        """Begin to connect, and to send what waits; InputError or OutputError for a file with a
        secret or a certificate that cannot be used."""
        # Here, and before anything is begun: whatever fails in `open` holds up no other output.
        self._client = self._make_client(self._site)
        super().open()
        self._client.connect_async(*self._options.address, self._options.keepalive)
        self._client.loop_start()

    def announce(self, state: StationState) -> None:
        """Changes at once; heartbeats once a second."""
        before, self._state = self._state, schema.dump(state)
        if not self._connected.is_set():
            return  # paho would keep each one; whoever connects tells the latest
        moving = {"heartbeat", "queue"}
        news = {k for k, v in self._state.items() if before.get(k) != v} - moving
        if news or time.monotonic() >= self._said_at + STATE_EVERY:
            self._tell(online=True)

    def health(self) -> dict[str, Any]:
        """As Forwarder.health, and whether the broker is there."""
        return {"connected": self._connected.is_set(), **super().health()}

    def close(self) -> None:
        """Send what waits, say goodbye: the will is for those who cannot."""
        super().close()
        if self._connected.is_set():
            self._tell(online=False).wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, rows: Sequence[Row]) -> None:
        """Publish, and wait for the broker's PUBACK of each."""
        if not self._connected.wait(0 if self.stopping else 1.0):
            raise OutputError(self._error or f"no connection to {self.name} yet")
        sent = [self._publish(id, schema.dump(result)) for id, result in rows]
        # What a lost connection leaves unacknowledged paho sends again by itself.
        with self._acknowledged:
            while not all(info.is_published() for info in sent):
                self._acknowledged.wait(0.2)
                if self.stopping and not self._connected.is_set():
                    raise OutputError("closed before the broker acknowledged")

    def _publish(self, id: int, result: dict[str, Any]) -> mqtt.MQTTMessageInfo:
        self._seq += 1
        message = {
            **result,
            "station": self._station,
            "session": self._session,
            "seq": self._seq,
            "id": id,
            "stored": id <= self._stored_upto,
        }
        return self._client.publish(f"{self._topic}/result", _json(message), qos=1)

    def _tell(self, online: bool) -> mqtt.MQTTMessageInfo:
        self._said_at = time.monotonic()
        payload = self._state_message(online=online, **self._state)
        return self._client.publish(f"{self._topic}/state", payload, qos=1, retain=True)

    def _state_message(self, **values: Any) -> bytes:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        known = {"station": self._station, "session": self._session, "time": now}
        return _json({**values, **known})

    def _make_client(self, site: Site) -> mqtt.Client:
        options = self._options
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            # The same after a crash: the broker lets go of the dead connection at once. Another for
            # each station on this machine: it would let go of the one that is alive.
            client_id=f"sanflow-{site.name}-{_short(site.folder)}",
        )
        if options.username:
            client.username_pw_set(options.username, site.secret(options.password_file) or None)
        if options.tls:
            try:
                client.tls_set(
                    site.file(options.ca_file),
                    site.file(options.certificate_file),
                    site.file(options.key_file),
                )
            except OSError as error:  # ssl.SSLError is one
                raise OutputError(
                    f"the certificates cannot be used ({error}); expected PEM files"
                ) from None
        offline = _json({"online": False, "station": site.name, "session": self._session})
        client.will_set(f"{self._topic}/state", offline, qos=1, retain=True)
        client.reconnect_delay_set(1, 10)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _on_connect(self, _c: object, _u: object, _f: object, reason: Any, _p: object) -> None:
        if reason.is_failure:
            self._error = f"the broker at {self.name} refuses: {reason}"
            return
        self._error = ""
        try:
            self._stored_upto = self.store.ends()[1]
        except OSError as error:
            self._error = str(error)
        self._connected.set()
        self._tell(online=True)

    def _on_connect_fail(self, _client: object, _userdata: object) -> None:
        self._error = f"no broker answers at {self.name}"

    def _on_disconnect(self, _c: object, _u: object, _f: object, reason: Any, _p: object) -> None:
        was = self._connected.is_set()  # a broker that refuses disconnects, too
        self._connected.clear()
        if was and reason.is_failure:
            self._error = f"the connection to {self.name} was lost: {reason}"

    def _on_publish(self, *_: object) -> None:
        with self._acknowledged:
            self._acknowledged.notify()


def _short(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False).encode()
