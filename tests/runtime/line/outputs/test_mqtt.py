"""MQTT against a real mosquitto: what is killed, when it comes back, what a subscriber sees."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt", reason="pip install sanflow[mqtt]")
from sanflow.errors import InputError
from sanflow.runtime.line.output import OutputError
from sanflow.runtime.line.outputs import Site
from sanflow.runtime.line.outputs.archive import ArchiveOutput
from sanflow.runtime.line.outputs.mqtt import MqttOutput
from sanflow.runtime.line.outputs.options import ArchiveOptions, MqttOptions

from .broker_kit import Broker, Subscriber, needs_mosquitto
from .conftest import a_result, a_state, certificates, eventually, free_port

pytestmark = needs_mosquitto


class Line:
    """The archive and the MQTT output behind it, as the slow side runs them."""

    def __init__(self, folder: Path, port: int, **options: Any) -> None:
        self.archive = ArchiveOutput(ArchiveOptions(pictures="none"), folder / "archive")
        given = {"host": "127.0.0.1", "port": port, **options}
        site = Site(folder, "cell-7", folder / "archive")
        self.mqtt = MqttOutput(MqttOptions("mqtt", **given), site)
        self.archive.open()
        self.mqtt.open()

    def emit(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.archive.emit(a_result(number), None)
            self.mqtt.emit(a_result(number), None)

    def close(self) -> None:
        self.mqtt.close()
        self.archive.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as broker:
        yield broker


def once(results: list[dict[str, Any]]) -> list[int]:
    """The parts in the order of their first arrival."""
    return list(dict.fromkeys(r["part"] for r in results))


def test_results_arrive_with_all_their_fields_and_sequence_numbers(
    broker: Broker, tmp_path: Path
) -> None:
    subscriber = Subscriber(broker)
    line = Line(tmp_path, broker.port)
    eventually(lambda: line.mqtt.health()["connected"])
    line.emit(1, 20)
    eventually(lambda: len(subscriber.results()) == 20)
    got = subscriber.results()
    assert [m["part"] for m in got] == list(range(1001, 1021))
    assert [m["seq"] for m in got] == list(range(1, 21))
    assert {m["session"] for m in got} == {line.mqtt._session}
    assert got[2].items() >= {"verdict": "NG", "reason": "score", "station": "cell-7"}.items()
    assert not any(m["stored"] for m in got)
    eventually(lambda: line.mqtt.health()["waiting"] == 0)
    line.close()
    subscriber.close()


def test_two_stations_of_one_name_do_not_throw_each_other_off(
    broker: Broker, tmp_path: Path
) -> None:
    """Two cameras on one machine, nothing configured: the broker knows them by their folders."""
    subscriber = Subscriber(broker)
    lines = [Line(tmp_path / name, broker.port) for name in ("a", "b")]
    eventually(lambda: all(line.mqtt.health()["connected"] for line in lines))
    for number in range(1, 11):
        for line in lines:
            line.emit(number, number)
        time.sleep(0.1)
    eventually(lambda: len(subscriber.results()) == 20)
    assert not any(m["stored"] for m in subscriber.results())
    assert all(state["online"] for state in subscriber.states())
    for line in lines:
        line.close()
    subscriber.close()


def test_an_absent_broker_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = Line(tmp_path, free_port())
    line.emit(1, 1)
    eventually(lambda: any("no broker answers" in m for m in caplog.messages))
    time.sleep(1.0)
    assert sum("no broker answers" in m for m in caplog.messages) == 1
    line.close()


def test_the_state_is_retained_and_ends_with_a_goodbye(broker: Broker, tmp_path: Path) -> None:
    line = Line(tmp_path, broker.port)
    line.mqtt.announce(a_state(state="Running", heartbeat=41))
    eventually(lambda: line.mqtt.health()["connected"])
    line.mqtt.announce(a_state(state="Error", fault="camera lost", heartbeat=42))
    subscriber = Subscriber(broker)
    eventually(lambda: subscriber.states())
    topic, first, retained = subscriber.got[0]
    assert topic == "sanflow/cell-7/state"
    assert retained
    told = {"online": True, "fault": "camera lost", "heartbeat": 42, "state": "Error"}
    assert eventually(lambda: subscriber.states()[-1].items() >= told.items() and first)
    line.close()
    eventually(lambda: not subscriber.states()[-1]["online"])
    subscriber.close()


def test_heartbeats_are_told_once_a_second_and_news_at_once(broker: Broker, tmp_path: Path) -> None:
    subscriber = Subscriber(broker)
    line = Line(tmp_path, broker.port)
    eventually(lambda: line.mqtt.health()["connected"])
    begun = time.monotonic()
    for beat in range(100):
        line.mqtt.announce(a_state(heartbeat=beat, queue=beat % 3))
    line.mqtt.announce(a_state(heartbeat=100, fault="late"))
    spent = time.monotonic() - begun
    eventually(lambda: subscriber.states() and subscriber.states()[-1].get("fault") == "late")
    assert len(subscriber.states()) <= 4 + spent
    line.close()
    subscriber.close()


def test_a_broker_that_was_away_is_told_the_latest_state_and_no_old_one(
    broker: Broker, tmp_path: Path
) -> None:
    subscriber = Subscriber(broker)
    line = Line(tmp_path, broker.port)
    eventually(lambda: line.mqtt.health()["connected"])
    broker.stop()
    eventually(lambda: not line.mqtt.health()["connected"])
    for number in range(50):
        line.mqtt.announce(a_state(fault=f"fault {number}"))
    broker.start()
    eventually(lambda: subscriber.states() and subscriber.states()[-1].get("fault") == "fault 49")
    line.emit(1, 1)
    eventually(lambda: len(subscriber.results()) == 1)
    assert {state.get("fault") for state in subscriber.states()} <= {None, "fault 49"}
    line.close()
    subscriber.close()


def test_a_broker_that_was_away_gets_everything_once_and_in_order(
    broker: Broker, tmp_path: Path
) -> None:
    subscriber = Subscriber(broker)
    line = Line(tmp_path, broker.port)
    eventually(lambda: line.mqtt.health()["connected"])
    line.emit(1, 30)
    eventually(lambda: len(subscriber.results()) == 30)
    broker.stop()
    begun = time.monotonic()
    line.emit(31, 400)
    assert time.monotonic() - begun < 5  # nobody waits for the broker
    assert line.mqtt.health()["waiting"] >= 370
    eventually(lambda: line.mqtt.health()["error"])
    broker.start()
    eventually(lambda: len(once(subscriber.results())) == 400, 40)
    got = subscriber.results()
    assert once(got) == list(range(1001, 1401))
    assert all(m["stored"] for m in got if m["part"] > 1031)
    eventually(lambda: line.mqtt.health()["waiting"] == 0)
    assert line.mqtt.health()["error"] == ""
    line.close()
    subscriber.close()


def test_a_sender_that_is_killed_leaves_its_will_and_goes_on_where_it_was(
    broker: Broker, tmp_path: Path
) -> None:
    subscriber = Subscriber(broker)
    code = f"""
import os, sys, time
from pathlib import Path
from tests.runtime.line.outputs.test_mqtt import Line, a_result, a_state, eventually
line = Line(Path({str(tmp_path)!r}), {broker.port})
line.mqtt.announce(a_state())
line.emit(1, 100)
eventually(lambda: line.mqtt.health()["delivered"] == 100)
for number in range(101, 151):
    line.archive.emit(a_result(number), None)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    eventually(lambda: subscriber.states() and not subscriber.states()[-1]["online"])
    birth, will = (
        next(s for s in subscriber.states() if s["online"] is on) for on in (True, False)
    )
    assert birth["session"] == will["session"]
    line = Line(tmp_path, broker.port)
    eventually(lambda: len(once(subscriber.results())) == 150)
    assert once(subscriber.results()) == list(range(1001, 1151))
    line.close()
    subscriber.close()


def test_tls_with_user_and_password(tmp_path: Path) -> None:
    ca, certificate, key = certificates(tmp_path)
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    tool = shutil.which("mosquitto_passwd")
    assert tool is not None
    subprocess.run([tool, "-b", str(passwords), "line", "s3cret"], check=True)
    config = (
        f"cafile {ca}",
        f"certfile {certificate}",
        f"keyfile {key}",
        f"password_file {passwords}",
        "allow_anonymous false",
    )
    with Broker(tmp_path, *config) as broker:
        subscriber = Subscriber(broker, ca=str(ca), username="line", password="s3cret")
        (tmp_path / "word").write_text("s3cret\n")
        (tmp_path / "wrong").write_text("other\n")
        given = {"host": "localhost", "tls": True, "ca_file": str(ca), "username": "line"}
        refused = Line(tmp_path, broker.port, password_file="wrong", **given)
        eventually(lambda: "refuses" in refused.mqtt.health()["error"])
        refused.emit(1, 5)
        refused.close()
        assert "other" not in refused.mqtt.health()["error"]
        line = Line(tmp_path, broker.port, password_file="word", **given)
        line.emit(6, 10)
        eventually(lambda: len(once(subscriber.results())) == 10)
        line.close()
        # A broker that nobody vouches for gets nothing.
        stranger = Line(tmp_path, broker.port, password_file="word", **{**given, "ca_file": ""})
        assert not stranger.mqtt._connected.wait(1.5)
        stranger.close()
        subscriber.close()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"mqtt:b:1883/sanflow: sends from the archive; add a table"
    ):
        MqttOutput(MqttOptions("mqtt", "b"), Site(tmp_path))
    site = Site(tmp_path, archive=tmp_path)
    options = MqttOptions("mqtt", "b", username="u", password_file="absent")
    with pytest.raises(InputError, match="absent: no such file"):
        MqttOutput(options, site).open()
    with pytest.raises(InputError, match=r"ca\.pem: no such file"):
        MqttOutput(MqttOptions("mqtt", "b", tls=True, ca_file="ca.pem"), site).open()
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(OutputError, match="certificates cannot be used"):
        MqttOutput(MqttOptions("mqtt", "b", tls=True, ca_file="ca.pem"), site).open()
