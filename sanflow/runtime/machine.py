"""What this machine is: processor, instruction sets, processors we may use, memory.

Read from the operating system without any package. What a system does not tell is None or empty,
never a guess: a benchmark or a bug report must not carry invented facts.
"""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# What decides how fast, and in which precision, an engine can run.
_ISA = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve"),
)


@dataclass(frozen=True)
class Machine:
    """The facts that a latency figure or a support question depends on."""

    system: str
    architecture: str
    python: str
    cpu: str
    isa: tuple[str, ...]
    """Instruction sets that matter to inference; empty where the system does not list them."""
    cpus: int
    """Processors this process may use: affinity and container quota counted in."""
    cores: int | None
    """Physical cores of the machine."""
    memory_mib: int | None
    """Memory this process may use: physical, or the container's limit if that is lower."""


def describe() -> Machine:
    """This machine, as far as it can be known."""
    info = text_of("/proc/cpuinfo")
    return Machine(
        system=platform.platform(),
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=_cpu_name(info),
        isa=_isa(info),
        cpus=usable_cpus(),
        cores=_cores(info),
        memory_mib=_memory_mib(),
    )


def usable_cpus() -> int:
    """Processors this process may use, at least 1.

    Engines count the machine's cores themselves and start too many threads inside a container
    with a quota, where the surplus is paid with stalls of 100 ms.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, _quota() or count))


def default_threads() -> int:
    """Threads for one engine: the usable processors, but not two on one physical core."""
    return min(usable_cpus(), _cores(text_of("/proc/cpuinfo")) or sys.maxsize)


def load_average() -> float | None:
    """Processes that wanted to run in the last minute; None where the system does not count."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def child_environment() -> dict[str, str]:
    """The environment for a child process: it finds this very package, and none in its folder."""
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONSAFEPATH": "1",
    }


def child_command(module: str) -> list[str]:
    """`python -m MODULE`, which finds nothing in the working directory; Python 3.10 would."""
    return child_code(
        f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )


def child_code(code: str) -> list[str]:
    """`python -c CODE`, which finds nothing in the working directory either."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = [p for p in sys.path if p]; {code}"]


def peak_rss_mib() -> float | None:
    """The most memory this process has held at once, in MiB.

    On Linux from VmHWM, because ru_maxrss also remembers the process that started this one.
    """
    high = re.search(r"VmHWM:\s+(\d+) kB", text_of("/proc/self/status"))
    if high:
        return int(high[1]) / 1024
    if sys.platform == "win32":
        return None
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _cpu_name(info: str) -> str:
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


def _isa(info: str) -> tuple[str, ...]:
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return tuple(name for name in _ISA if name in present)


def _cores(info: str) -> int | None:
    pairs = re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", info, re.M | re.S)
    return len(set(pairs)) or None


def _quota() -> int | None:
    """Processors that containers and services grant (cgroup v2, then v1), rounded up."""
    limits = [text.split() for text in _granted("cpu.max")]
    if not any(limits):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        limits = [[text_of(f"/sys/fs/cgroup/cpu/{name}").strip() for name in names]]
    # Where nothing is limited: "max", -1, or no such file.
    given = [[int(n) for n in limit] for limit in limits if all(map(str.isdigit, limit))]
    quotas = [limit[0] / limit[1] for limit in given if len(limit) == 2 and limit[1]]
    return math.ceil(min(quotas)) if quotas else None


def _memory_mib() -> int | None:
    total = re.search(r"MemTotal:\s+(\d+) kB", text_of("/proc/meminfo"))
    sizes = [int(total[1]) * 1024] if total else []
    limits = (*_granted("memory.max"), text_of("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    sizes += [int(limit) for limit in limits if limit.strip().isdigit()]
    if not sizes and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(sizes) // 2**20 if sizes else None


def _granted(name: str) -> list[str]:
    """A limit of cgroup v2, of this process's own group and of all above: each of them holds."""
    own = re.search(r"^0::(/.*)$", text_of("/proc/self/cgroup"), re.MULTILINE)
    group = PurePosixPath(own[1] if own else "/")
    return [text_of(f"/sys/fs/cgroup/{place}/{name}") for place in (group, *group.parents)]


def text_of(path: str | Path) -> str:
    """What a file of the system says; empty where it is not there, or not for this user."""
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
