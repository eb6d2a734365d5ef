"""What the monitor has to know of a bundle: its calibration scores, left behind where it judges.

    references/HASH.json    one file per bundle and engine that ever judged here

Written by the real-time process when a bundle has been proven, before it takes over; so the slow
process finds it, also after a swap and after its own restart.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from ..swap import Judge

MOST = 50
"""Files that are kept."""

_log = logging.getLogger(__name__)


def keep(folder: Path, judge: Judge) -> None:
    """Leave a judge's calibration scores in the station's folder, if the disk takes them."""
    path = _path(folder, judge.digest, judge.name)
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(judge.engine.graph.scores), "ascii")
        os.replace(part, path)
        files = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in files[:-MOST]:
            old.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: %s; nobody looks for drift", path, error.strerror)


def scores(folder: Path, bundle: str, engine: str) -> list[float]:
    """Of the calibration parts, as the results name bundle and engine; none if nobody left them."""
    try:
        found = json.loads(_path(folder, bundle, engine).read_text("ascii"))
        return [float(score) for score in found]
    except (OSError, ValueError, TypeError):
        return []


def _path(folder: Path, bundle: str, engine: str) -> Path:
    name = hashlib.sha256(f"{bundle} {engine}".encode()).hexdigest()[:32]
    return folder / "references" / f"{name}.json"
