"""Facts about machines, from what their systems say: this one's, and others' files."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from sanflow.runtime import machine

INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Gold 6430
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse avx avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Gold 6430
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu sse avx avx2

processor\t: 2
model name\t: Intel(R) Xeon(R) Gold 6430
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse avx avx2
"""
ARM = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes asimdhp asimddp i8mm bf16
CPU implementer\t: 0x41

Model\t\t: NVIDIA Jetson Orin NX
"""


def pretend(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Let the system's files hold this; a double underscore stands for a slash, `D` for a dot."""
    texts = {name.replace("__", "/").replace("D", "."): text for name, text in files.items()}
    monkeypatch.setattr(
        machine,
        "text_of",
        lambda path: next((t for name, t in texts.items() if path.endswith(name)), ""),
    )


def test_this_machine() -> None:
    found = machine.describe()
    assert found.python.count(".") == 2
    assert found.cpu
    assert 1 <= found.cpus <= (os.cpu_count() or 1)
    assert 1 <= machine.default_threads() <= found.cpus
    assert found.memory_mib is None or found.memory_mib > 64
    peak = machine.peak_rss_mib()
    assert peak is None or 10 < peak < 100_000


def test_an_intel_server(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cpuinfo=INTEL, meminfo="MemTotal:       16000000 kB\n")
    found = machine.describe()
    assert found.cpu == "Intel(R) Xeon(R) Gold 6430"
    assert found.isa == (
        "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    )  # fmt: skip
    assert found.cores == 2  # three processors, two of them on one core
    assert found.memory_mib == 15625


def test_an_arm_board(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cpuinfo=ARM)
    found = machine.describe()
    assert found.cpu == "NVIDIA Jetson Orin NX"
    assert found.isa == ("asimd", "asimddp", "asimdhp", "bf16", "i8mm")
    assert found.cores is None


def test_a_system_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    found = machine.describe()
    assert found.isa == ()
    assert found.cores is None
    assert found.cpu
    assert machine.default_threads() == found.cpus


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpuDmax": "150000 100000\n"}, 2),
        ({"cpuDmax": "100000 100000\n"}, 1),
        ({"cpuDmax": "10000 100000\n"}, 1),
        ({"cpuDmax": "max 100000\n"}, 8),
        ({"cpuDcfs_quota_us": "250000\n", "cpuDcfs_period_us": "100000\n"}, 3),
        ({"cpuDcfs_quota_us": "-1\n", "cpuDcfs_period_us": "100000\n"}, 8),
        ({"cpuDmax": "1600000 100000\n"}, 8),
        ({}, 8),
    ],
)
def test_a_containers_quota_counts(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    pretend(monkeypatch, **files)
    assert machine.usable_cpus() == cpus


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [
        ({"station.service": "250000 100000", "line.slice": "max 100000"}, 3),
        ({"station.service": "max 100000", "line.slice": "200000 100000"}, 2),
        ({"station.service": "400000 100000", "line.slice": "150000 100000"}, 2),
        ({}, 8),
    ],
)
def test_a_services_quota_counts_and_that_of_every_group_above(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], cpus: int
) -> None:
    files = {
        f"/sys/fs/cgroup{path}/cpu.max": limits.get(Path(path).name, "")
        for path in ("/line.slice/station.service", "/line.slice", "/")
    }
    files["/proc/self/cgroup"] = "1:name=systemd:/else\n0::/line.slice/station.service\n"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "text_of", lambda path: files.get(re.sub("/+", "/", path), ""))
    assert machine.usable_cpus() == cpus


def test_a_containers_memory_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"meminfo": "MemTotal: 16000000 kB\n", "memoryDmax": f"{2**30}\n"}
    pretend(monkeypatch, **files)
    assert machine.describe().memory_mib == 1024
    pretend(monkeypatch, **{**files, "memoryDmax": "max\n"})
    assert machine.describe().memory_mib == 15625


def test_a_child_finds_the_package_and_keeps_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("COLOUR", "red")
    found = machine.child_environment()
    first, second = found["PYTHONPATH"].split(os.pathsep)
    assert os.path.isfile(os.path.join(first, "sanflow", "__init__.py"))
    assert (second, found["COLOUR"]) == ("elsewhere", "red")


def test_a_child_runs_nothing_of_its_working_directory(tmp_path: Path) -> None:
    """As Python 3.10 starts it, which knows no PYTHONSAFEPATH."""
    for name in ("runpy", "json", "tool"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    command = [*machine.child_command("json.tool"), "--compact"]
    done = subprocess.run(
        command, input='{"a": 1}', env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ('{"a":1}\n', "")
