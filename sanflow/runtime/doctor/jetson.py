"""What a Jetson is: its release, what belongs to it, its power mode, and whether clocks are fixed.

Read from files that everybody may read; no tool of NVIDIA's is started, and none needs root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..machine import text_of
from ..trt.key import l4t

_GPU_CLOCK = re.compile(r"\.(gpu|gpc\d*|ga10b|gv11b)$|^gpu|^gpc")


@dataclass(frozen=True)
class Release:
    """What one JetPack brings, as NVIDIA documents it."""

    l4t: tuple[int, int]
    """Jetson Linux, the first release of it."""
    jetpack: str
    tensorrt: str
    """Its version; by it begins the version of the module that fits."""
    cuda: str
    python: str
    devices: str
    supported: bool = True


# A release that is not here is read as the last one before it of the same major version.
RELEASES: Final = (
    Release((35, 0), "5", "8.5", "11.4", "3.8", "Xavier, Orin", supported=False),
    Release((36, 0), "6.0", "8.6", "12.2", "3.10", "Orin", supported=False),
    Release((36, 4), "6.1 to 6.2", "10.3", "12.6", "3.10", "Orin"),
    Release((38, 0), "7.0 and 7.1", "10.13", "13.0", "3.12", "Thor"),
    Release((39, 0), "7.2", "10.16", "13.2", "3.12", "Orin, Thor"),
)


@dataclass(frozen=True)
class Jetson:
    """The facts of one module."""

    model: str
    l4t: str
    release: Release | None
    """None for a release of Jetson Linux that is not known here."""
    mode: str | None
    """The power mode's name; None where it cannot be read."""
    full_mode: tuple[int, str] | None
    """Number and name of the mode without limits, where there is one that is not in use."""
    clocks_fixed: bool | None
    """Whether the GPU's clock cannot go down; None where it cannot be read."""


def jetson(root: Path = Path("/")) -> Jetson | None:
    """This Jetson; None on any other machine."""
    version = l4t()
    if version is None:
        return None
    mode, full = _power(root)
    return Jetson(
        model=text_of(root / "proc/device-tree/model").strip("\0 \n") or "a Jetson",
        l4t=version,
        release=release(version),
        mode=mode,
        full_mode=full,
        clocks_fixed=_clocks_fixed(root),
    )


def release(version: str) -> Release | None:
    """The JetPack of a Jetson Linux release such as 36.4.3."""
    found = tuple(int(part) for part in version.split(".")[:2])
    fitting = [r for r in RELEASES if r.l4t[0] == found[0] and r.l4t <= found]
    return fitting[-1] if fitting else None


def _power(root: Path) -> tuple[str | None, tuple[int, str] | None]:
    """The mode in use, and the one without limits if that is another."""
    modes = {
        int(number): name
        for number, name in re.findall(
            r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>",
            text_of(root / "etc/nvpmodel.conf"),
            re.MULTILINE,
        )
    }
    status = re.search(r"pmode:(\d+)", text_of(root / "var/lib/nvpmodel/status"))
    if status is None:
        return None, None
    current = int(status[1])
    # MAXN_SUPER, where there is one, is above MAXN.
    full = max(
        (item for item in modes.items() if item[1].startswith("MAXN")),
        key=lambda item: len(item[1]),
        default=None,
    )
    name = modes.get(current, f"mode {current}")
    return name, None if full is None or full[0] == current else full


def _clocks_fixed(root: Path) -> bool | None:
    folder = root / "sys/class/devfreq"
    for clock in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _GPU_CLOCK.search(clock.name):
            low, high = text_of(clock / "min_freq").strip(), text_of(clock / "max_freq").strip()
            return low == high if low and high else None
    return None
