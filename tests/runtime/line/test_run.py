"""`sanflow run` as a user starts it: a process of its own, signals, exit codes, messages."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sanflow.bundle import Bundle
from sanflow.cli import app
from sanflow.runtime.line import journal, swap
from sanflow.runtime.line.journal import Follower
from sanflow.runtime.line.sources import open_source
from sanflow.runtime.registry import open_engine
from sanflow.runtime.setting import Gpu

from ..conftest import MakeBundle
from .station_kit import stricter, until

SMALL = "sim:noise?size=24x20"


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["run", *map(str, words)])


def rows(out: Path) -> list[dict[str, Any]]:
    return list(Follower(out / "journal").rows())


def test_a_source_that_ends(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke(
        bundle.path, "--source", f"{SMALL}&count=30", "--deadline", "5s", "--out", out, "--json"
    )
    assert done.exit_code == 0, done.output
    tally = json.loads(done.stdout)
    assert tally["parts"] == tally["ok"] + tally["ng"] == 30
    assert [row["result"] for row in rows(out)] == list(range(1, 31))
    assert "Ready" in done.stderr


def test_parts_that_nobody_judged_are_exit_code_3(bundle: Bundle, tmp_path: Path) -> None:
    uri = f"{SMALL}&count=30&corrupt=10"
    done = invoke(bundle.path, "--source", uri, "--deadline", "5s", "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "3 incomplete" in done.stdout


def test_results_that_no_disk_took_are_told_at_the_end(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        if written or len(data.splitlines()) == 30:  # all at once, where the recorder was slow
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.extend(data.splitlines())
        return write(descriptor, data)

    monkeypatch.setattr(journal.os, "write", full)
    words = ["--source", f"{SMALL}&count=30&rate=50", "--deadline", "5s", "--out", tmp_path / "out"]
    done = invoke(bundle.path, *words)
    assert done.exit_code == 9
    assert done.stdout.startswith("30 parts: ")
    lost = f"{30 - len(rows(tmp_path / 'out'))} results were never written to {tmp_path / 'out'}"
    assert f"error: {lost}/journal: No space left on device\n" in done.stderr


def test_what_stepped_in_is_said_in_every_result(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def opened(*given: Any, gpu: Gpu | None, **more: Any) -> Any:
        asked.append(gpu)
        engine = open_engine(*given, **more)
        engine.note = "int8 could not be built"
        return engine

    monkeypatch.setattr(swap, "open_engine", opened)
    uri, flags = f"{SMALL}&count=3", ["--allow-fallback", "--cuda-backend", "pycuda"]
    done = invoke(
        bundle.path, "--source", uri, "--deadline", "5s", "--out", tmp_path / "out", *flags
    )
    assert done.exit_code == 0, done.output
    assert asked == [Gpu("pycuda", True)]
    assert all(
        row["engine"].endswith("(int8 could not be built)") for row in rows(tmp_path / "out")
    )


def test_a_file_is_no_folder_of_a_station(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    words = ["--source", f"{SMALL}&count=3", "--deadline", "5s", "--out", tmp_path / "out"]
    done = invoke(bundle.path, *words)
    assert done.exit_code == 2
    assert "is a file, expected the station's folder" in done.stderr


def test_a_file_says_it_and_a_flag_says_it_last(bundle: Bundle, tmp_path: Path) -> None:
    toml = tmp_path / "line.toml"
    toml.write_text(f'[line]\ndeadline = "1us"\n[source]\nuri = "{SMALL}&count=5"\n')
    done = invoke(bundle.path, "--config", toml, "--out", tmp_path / "a")
    assert {row["reason"] for row in rows(tmp_path / "a")} == {"deadline"}, done.output
    done = invoke(bundle.path, "--config", toml, "--deadline", "5s", "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("words", "toml", "message"),
    [
        ((), "", "no source: give --source URI"),
        (("--source", SMALL), "", "no deadline: give --deadline"),
        (("--source", SMALL, "--deadline", "50"), "", "error: --deadline: '50' is not a duration"),
        (("--source", SMALL, "--deadline", "0s"), "", "give a number above 0 and a unit"),
        (("--source", SMALL + "&rat=2", "--deadline", "1s"), "", "did you mean 'rate'"),
        (("--source", SMALL + "&rate=x", "--deadline", "1s"), "", "rate='x' is not a number"),
        ((), "[line]\ndedline = '1s'", "did you mean 'deadline'"),
        ((), "[line]\nqueue = 0", "queue is 0, expected at least 1"),
        ((), "line = ", "not TOML"),
        (
            ("--source", SMALL, "--deadline", "1s"),
            "[source]\ntrigger = 'software'\n[[output]]\nkind = 'jsonl'",
            "no output asks for parts; add an [[output]] of kind modbus",
        ),
        ((), "[output]\nkind = 'csv'", "[[output]] with a kind each"),
        ((), "[[output]]\nkind = 'cvs'\n[source]\nuri='sim:'\n[line]\ndeadline='1s'", "cvs"),
    ],
)
def test_what_cannot_be_used_is_said(
    bundle: Bundle, tmp_path: Path, words: tuple[str, ...], toml: str, message: str
) -> None:
    (tmp_path / "line.toml").write_text(toml)
    done = invoke(
        bundle.path, *words, "--config", tmp_path / "line.toml", "--out", tmp_path / "out"
    )
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_bundle_that_is_refused(tmp_path: Path) -> None:
    done = invoke(tmp_path / "no", "--source", SMALL, "--deadline", "1s", "--out", tmp_path / "out")
    assert done.exit_code == 4
    assert "no such folder" in done.stderr


def test_a_camera_that_is_absent(bundle: Bundle, tmp_path: Path) -> None:
    uri = f"sim:?images={tmp_path / 'none'}"
    done = invoke(bundle.path, "--source", uri, "--deadline", "1s", "--out", tmp_path / "out")
    assert done.exit_code == 8
    assert "no pictures in" in done.stderr


def test_one_station_per_folder(bundle: Bundle, tmp_path: Path) -> None:
    station = start(bundle.path, tmp_path / "out")
    try:
        wait_for(tmp_path / "out", lambda found: len(found) > 0)
        done = invoke(bundle.path, "--source", SMALL, "--deadline", "1s", "--out", tmp_path / "out")
    finally:
        station.kill()
        station.communicate()
    assert done.exit_code == 2
    assert "another station works in this folder" in done.stderr


def start(bundle: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sanflow", "run", str(bundle), "--out", str(out)]
    command += ["--source", f"{SMALL}&rate=50", "--deadline", "5s", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(out: Path, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
    until(lambda: condition(rows(out)), 60)


def test_signals(bundle: Bundle, tmp_path: Path) -> None:
    """SIGHUP swaps to what the link names now, SIGTERM ends it with every part answered."""
    other = stricter(bundle, tmp_path / "other")
    link, out = tmp_path / "current", tmp_path / "out"
    link.symlink_to(bundle.path)
    station = start(link, out)
    try:
        wait_for(out, lambda found: len(found) > 3)
        link.unlink()
        link.symlink_to(other.path)
        station.send_signal(signal.SIGHUP)
        wait_for(out, lambda found: found[-1]["bundle"] == other.manifest.digest)
        station.send_signal(signal.SIGTERM)
        stdout, stderr = station.communicate(timeout=60)
    finally:
        station.kill()
    assert station.returncode == 0, stderr
    found = rows(out)
    assert [row["result"] for row in found] == list(range(1, len(found) + 1))
    assert stdout.startswith(f"{len(found)} parts")
    assert "Halted" not in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_killed_station_leaves_what_it_said(bundle: Bundle, tmp_path: Path) -> None:
    """kill -9, then a new life: the slow side tells its outputs the rest of the first one."""
    out, toml = tmp_path / "out", tmp_path / "line.toml"
    toml.write_text('[[output]]\nkind = "jsonl"\n')
    station = start(bundle.path, out, "--config", str(toml))
    wait_for(out, lambda found: len(found) > 20)
    station.kill()
    station.communicate()
    time.sleep(1.0)  # its slow side ends by itself
    done = invoke(
        bundle.path, "--source", f"{SMALL}&count=5", "--deadline", "5s",
        "--config", toml, "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    written: list[dict[str, Any]] = []
    for path in sorted((out / "results").glob("*.jsonl")):
        written += map(json.loads, path.read_text().splitlines())
    told = [(row["run"], row["result"]) for row in rows(out)]
    assert [(row["run"], row["result"]) for row in written] == told
    assert len({run for run, _ in told}) == 2


@pytest.mark.slow
def test_an_engine_that_never_comes_back_does_not_keep_the_process(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """In a process of its own: threads that are stuck in a library must not crash its end."""
    bundle = make_bundle("stuck")
    code = (
        "import sys, time\n"
        "from sanflow.runtime import ort\n"
        "run, calls = ort.OrtEngine._run, []\n"
        "def stuck(self, images):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 12: time.sleep(1000)\n"
        "    return run(self, images)\n"
        "ort.OrtEngine._run = stuck\n"
        "from sanflow.cli import main\n"
        "sys.argv = sys.argv[1:]\n"
        "main()\n"
    )
    toml = tmp_path / "line.toml"
    toml.write_text('[line]\nhang = "300ms"\n')
    words = ["run", str(bundle.path), "--source", f"{SMALL}&rate=100&count=60", "--threads", "1"]
    words += ["--deadline", "100ms", "--config", str(toml), "--out", str(tmp_path / "out")]
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "sanflow", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert len(rows(tmp_path / "out")) == 60
    assert time.monotonic() - begin < 40


def test_the_simulated_camera_is_registered() -> None:
    assert open_source(f"{SMALL}&rate=5").live
    assert not open_source(SMALL).live
