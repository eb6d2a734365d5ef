"""What the monitor has to know of a bundle, left behind where it judges.

    references/HASH.json    one file per bundle and engine that ever judged here

Written by the real-time process when a bundle has been proven, before it takes over; so the slow
process finds it, also after a swap and after its own restart.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from .... import schema
from ....errors import ConfigError
from ..swap import Judge
from ..whole import write_whole

MOST = 50
"""Files that are kept."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """Of one graph."""

    scores: tuple[float, ...]
    """Of the calibration parts."""
    display_low: float
    """Where a heat map begins to glow."""
    display_high: float


def keep(folder: Path, judge: Judge) -> None:
    """Leave a judge's reference in the station's folder, if the disk takes it."""
    path = _path(folder, judge.digest, judge.name)
    graph = judge.engine.graph
    known = Reference(graph.scores, graph.decision.display_low, graph.decision.display_high)
    try:
        write_whole(path, json.dumps(schema.dump(known)).encode("ascii"))
        files = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in files[:-MOST]:
            old.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: %s; nobody looks for drift", path, error.strerror)


def find(folder: Path, bundle: str, engine: str) -> Reference | None:
    """Of the bundle and engine as results name them; None if nobody left it."""
    try:
        found = json.loads(_path(folder, bundle, engine).read_text("ascii"))
        return schema.load(Reference, found)
    except (OSError, ValueError, ConfigError):
        return None


def _path(folder: Path, bundle: str, engine: str) -> Path:
    name = hashlib.sha256(f"{bundle} {engine}".encode()).hexdigest()[:32]
    return folder / "references" / f"{name}.json"
