"""What the outputs cost and how fast they are, each against a real other end on this machine.

    python benchmarks/outputs.py [--only WHAT] [--mosquitto PATH] [--out FILE]

modbus: a master in a process of its own reads status and latest result, one request after the
other, and triggers parts that have their verdict at once: the time to the matching id.
archive: rows and pictures per second, bytes per row. files: rows per second.
mqtt: from the archive to a subscriber, one by one and catching up. webhook: catching up. opcua: the
start, and from the verdict to a client's event. Every `emit` is timed as the emitter would feel it.
Writes results/outputs.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from timing import RESULTS, machine

from sanflow.runtime.line.output import Output, Picture, StationState
from sanflow.runtime.line.outputs import Site, load_options, make_outputs
from sanflow.runtime.line.result import PartResult

READY = StationState("Ready", "", 1, "0123456789abcdef" * 4, 0)
RESULT = PartResult(
    result=1,
    part=1001,
    verdict="NG",
    reason="score",
    detail="",
    score=2.5,
    threshold=1.0,
    uncertain=False,
    late=False,
    source="sim:noise?size=480x640",
    sequence=1,
    image="",
    encoder=None,
    bundle="0123456789abcdef" * 4,
    engine="openvino 2026.4.1 fp32",
    created="2026-01-31T12:00:00.000Z",
    wait_ms=0.1,
    prepare_ms=0.2,
    engine_ms=5.0,
    total_ms=6.25,
    run="0123456789abcdef",
)

MASTER = """
import json, sys, time
from pymodbus.client import ModbusTcpClient
master = ModbusTcpClient("127.0.0.1", port=int(sys.argv[1]))
master.connect()
read, handshake = [], []
for _ in range(3000):
    begun = time.perf_counter()
    master.read_holding_registers(16, count=28)
    read.append(time.perf_counter() - begun)
master.write_registers(0, [0])
for part in range(1, 1001):
    begun = time.perf_counter()
    master.write_registers(0, [part, 0, part])
    while master.read_holding_registers(32, count=12).registers[3] != part:
        pass
    handshake.append(time.perf_counter() - begun)
print(json.dumps([read, handshake]))
"""


def numbered(number: int) -> PartResult:
    return replace(RESULT, result=number, part=1000 + number)


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    low, high, most = np.quantile(seconds, [0.5, 0.99, 1.0]) * 1e3
    return {"p50_ms": round(low, 4), "p99_ms": round(high, 4), "max_ms": round(most, 2)}


def outputs(folder: Path, table: dict[str, Any], fast: bool) -> list[Output]:
    found = load_options([table], None)
    made = make_outputs(found, Site(folder, "bench"), fast=fast)
    for output in made:
        output.open()
    return made


def emitting(made: list[Output], first: int, last: int) -> list[float]:
    """Seconds that the last of the outputs kept each emit."""
    spent = []
    for number in range(first, last + 1):
        result = numbered(number)
        for output in made:
            begun = time.perf_counter()
            output.emit(result, None)
        spent.append(time.perf_counter() - begun)
    return spent


def until(what: Callable[[], bool], seconds: float = 120.0) -> float:
    """Seconds until it is so."""
    begun = time.perf_counter()
    while not what():
        if time.perf_counter() - begun > seconds:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.001)
    return time.perf_counter() - begun


def modbus(folder: Path) -> dict[str, Any]:
    (made,) = outputs(folder, {"kind": "modbus", "host": "127.0.0.1", "port": 15020}, fast=True)

    class Control:
        def trigger(self, part: int) -> None:
            made.emit(replace(RESULT, part=part), None)

        def swap(self, bundle: str) -> None: ...

    made.attach(Control())
    made.announce(READY)
    quiet = emitting([made], 1, 3000)
    done = subprocess.run(
        [sys.executable, "-c", MASTER, "15020"], capture_output=True, text=True, check=True
    )
    read, handshake = json.loads(done.stdout)
    made.close()
    return {"emit": spread(quiet), "read": spread(read), "trigger_to_verdict": spread(handshake)}


def archive(folder: Path) -> dict[str, Any]:
    from sanflow.runtime.line.outputs.archive import ArchiveOutput
    from sanflow.runtime.line.outputs.options import ArchiveOptions

    made = ArchiveOutput(ArchiveOptions(free_mb=0), folder / "rows")
    made.open()
    begun = time.perf_counter()
    spent = emitting([made], 1, 20_000)
    rate = 20_000 / (time.perf_counter() - begun)
    made.close()
    size = sum(p.stat().st_size for p in (folder / "rows").iterdir()) / 20_000
    found = {"emit": spread(spent), "rows_per_s": round(rate), "bytes_per_row": round(size)}
    for side in (256, 1024):
        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
        heat = rng.normal(size=(side, side)).astype(np.float32)
        picture = Picture(image.astype(np.uint8), heat)
        made = ArchiveOutput(ArchiveOptions(free_mb=0), folder / f"pictures{side}")
        made.open()
        begun = time.perf_counter()
        for number in range(1, 25):
            made.emit(numbered(number), picture)
        made.close()
        found[f"pictures_per_s_{side}"] = round(24 / (time.perf_counter() - begun), 1)
    return found


def files(folder: Path) -> dict[str, Any]:
    found = {}
    for kind in ("jsonl", "csv"):
        made = outputs(folder, {"kind": kind, "folder": kind}, fast=False)
        found[kind] = spread(emitting(made, 1, 10_000))
        made[0].close()
    return found


def mqtt(folder: Path, mosquitto: str) -> dict[str, Any]:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    config = folder / "mosquitto.conf"
    config.write_text("user root\nlistener 18830 127.0.0.1\nallow_anonymous true\n")
    broker = subprocess.Popen([mosquitto, "-c", str(config)], stderr=subprocess.DEVNULL)
    arrived: list[float] = []
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda *_: arrived.append(time.perf_counter())
    table = {"kind": "mqtt", "host": "127.0.0.1", "port": 18830}
    try:
        time.sleep(1)
        client.connect("127.0.0.1", 18830)
        client.subscribe("sanflow/+/result", qos=1)
        client.loop_start()
        made = outputs(folder, table, fast=False)
        until(lambda: made[-1].health()["connected"])
        live = []
        for number in range(1, 201):
            begun = time.perf_counter()
            emitting(made, number, number)
            until(lambda number=number: len(arrived) >= number)
            live.append(arrived[-1] - begun)
        for output in reversed(made):
            output.close()
        backlog = load_options([], {})
        (rows,) = make_outputs(backlog, Site(folder, "bench"), fast=False)
        rows.open()
        emitting([rows], 201, 5200)
        rows.close()
        begun = time.perf_counter()
        made = outputs(folder, table, fast=False)
        until(lambda: len(arrived) >= 5200)
        rate = 5000 / (arrived[-1] - begun)
        for output in reversed(made):
            output.close()
    finally:
        client.loop_stop()
        broker.terminate()
    return {"live": spread(live), "catching_up_per_s": round(rate)}


def webhook(folder: Path) -> dict[str, Any]:
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.extend(body["results"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    made = outputs(folder, {"kind": "webhook", "url": url}, fast=False)
    begun = time.perf_counter()
    emitting(made, 1, 5000)
    until(lambda: len(got) >= 5000)
    rate = 5000 / (time.perf_counter() - begun)
    for output in reversed(made):
        output.close()
    server.shutdown()
    return {"archived_and_posted_per_s": round(rate)}


def opcua(folder: Path) -> dict[str, Any]:
    from asyncua import Client, ua

    begun = time.perf_counter()
    table = {"kind": "opcua", "host": "127.0.0.1", "port": 14840}
    (made,) = outputs(folder, table, fast=False)
    until(lambda: made.health()["listening"])
    start = time.perf_counter() - begun
    arrived: list[float] = []

    class Listener:
        def event_notification(self, event: Any) -> None:
            arrived.append(time.perf_counter())

    async def listen() -> tuple[list[float], float]:
        async with Client("opc.tcp://127.0.0.1:14840/sanflow") as client:
            await client.load_data_type_definitions()
            space = await client.get_namespace_index("http://opcfoundation.org/UA/MachineVision")
            subscription = await client.create_subscription(10, Listener())
            kind = client.get_node(ua.NodeId(1024, space))
            await subscription.subscribe_events(client.nodes.server, kind)
            live = []
            for number in range(1, 101):
                begun = time.perf_counter()
                made.emit(numbered(number), None)
                while len(arrived) < number:
                    await asyncio.sleep(0.0005)
                live.append(arrived[-1] - begun)
            begun = time.perf_counter()
            for number in range(101, 901):
                made.emit(numbered(number), None)
            while len(arrived) < 900:
                await asyncio.sleep(0.001)
            return live, 800 / (arrived[-1] - begun)

    live, rate = asyncio.run(listen())
    made.close()
    return {"start_s": round(start, 1), "live": spread(live), "events_per_s": round(rate)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--mosquitto", default=shutil.which("mosquitto") or "/usr/sbin/mosquitto")
    parser.add_argument("--out", type=Path, default=RESULTS / "outputs.json")
    given = parser.parse_args()
    found: dict[str, Any] = {"command": "benchmarks/outputs.py", "machine": machine()}
    runs: dict[str, Callable[[Path], dict[str, Any]]] = {
        "modbus": modbus,
        "archive": archive,
        "files": files,
        "mqtt": lambda folder: mqtt(folder, given.mosquitto),
        "webhook": webhook,
        "opcua": opcua,
    }
    for name, run in runs.items():
        if given.only in ("", name):
            with tempfile.TemporaryDirectory() as folder:
                found[name] = run(Path(folder))
            print(name, json.dumps(found[name]), flush=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
