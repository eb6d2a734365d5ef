"""A real broker that can be killed, and a subscriber that keeps its session."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from .conftest import eventually, free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="no mosquitto: apt install mosquitto"
)


class Broker:
    """A mosquitto of its own that can be killed and started again on the same port."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        store = f"persistence true\npersistence_location {folder}/\n"
        listener = f"listener {self.port} 127.0.0.1\n" + "\n".join(
            lines or ["allow_anonymous true"]
        )
        self.config.write_text(f"user root\n{store}autosave_interval 1\n{listener}\n")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.config)], stderr=subprocess.DEVNULL
        )
        eventually(self.answers)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Ends as at a shutdown: sessions are kept."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


class Subscriber:
    """Keeps its session while it or the broker is away, as a MES would."""

    def __init__(self, broker: Broker, topic: str = "sanflow/#", **tls: Any) -> None:
        self.got: list[tuple[str, dict[str, Any], bool]] = []
        self.ready = False
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "mes", clean_session=False)
        if tls:
            self.client.username_pw_set(tls["username"], tls["password"])
            self.client.tls_set(tls["ca"])
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: setattr(self, "ready", True)
        self.client.on_message = lambda _c, _u, m: self.got.append(
            (m.topic, json.loads(m.payload), m.retain)
        )
        self.client.connect_async("localhost" if tls else "127.0.0.1", broker.port)
        self.client.loop_start()
        eventually(lambda: self.ready)

    def results(self) -> list[dict[str, Any]]:
        return [message for topic, message, _ in self.got if topic.endswith("/result")]

    def states(self) -> list[dict[str, Any]]:
        return [message for topic, message, _ in self.got if topic.endswith("/state")]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
