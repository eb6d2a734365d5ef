"""What the operator's page shows: the latest verdicts, the last reject with its heat map.

Only the latest is kept, and a picture is drawn when somebody looks: a page costs nothing while
nobody does, and never more than one picture per reject.
"""

from __future__ import annotations

from collections import deque
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import imaging, schema
from ..output import Picture
from ..result import PartResult
from . import reference

LATEST = 20
"""Verdicts that are shown."""
REJECTS = 4
"""Whose pictures are kept: on a fast line others come while a page asks for the last one."""
FILES = {
    "/": ("operator.html", "text/html; charset=utf-8"),
    "/operator.js": ("operator.js", "text/javascript; charset=utf-8"),
    "/operator.css": ("operator.css", "text/css; charset=utf-8"),
}

_SHOWN = ("part", "verdict", "reason", "detail", "score", "threshold", "uncertain", "total_ms")


class Board:
    """The latest of everything."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the station's."""
        self._folder = folder
        self._lock = Lock()
        self._latest: deque[PartResult] = deque(maxlen=LATEST)
        self._rejects: deque[tuple[PartResult, Picture | None]] = deque(maxlen=REJECTS)
        self._drawn: tuple[str, bytes] = "", b""

    def count(self, result: PartResult, picture: Picture | None) -> None:
        """One verdict, and what was seen."""
        with self._lock:
            self._latest.appendleft(result)
            if result.verdict == "NG":
                self._rejects.appendleft((result, picture))

    def document(self) -> dict[str, Any]:
        """Plain values for the page."""
        with self._lock:
            latest, rejects = list(self._latest), list(self._rejects)
        shown = None
        if rejects:
            reject, picture = rejects[0]
            shown = {**_shown(reject), "picture": "" if picture is None else _key(reject)}
        engine = latest[0].engine if latest else ""
        return {"latest": [_shown(r) for r in latest], "reject": shown, "engine": engine}

    def picture(self, key: str) -> bytes | None:
        """A reject's picture as PNG; None if too many others came meanwhile."""
        with self._lock:
            rejects, drawn = list(self._rejects), self._drawn
        if drawn[0] == key:
            return drawn[1]
        for result, picture in rejects:
            if _key(result) == key and picture is not None:
                drawn = key, imaging.encode_png(self._draw(result, picture))
                with self._lock:
                    self._drawn = drawn
                return drawn[1]
        return None

    def _draw(self, result: PartResult, picture: Picture) -> NDArray[np.uint8]:
        known = reference.find(self._folder, result.bundle, result.engine)
        if picture.map is None or known is None:
            return picture.image
        low, high = known.display_low, known.display_high
        return imaging.overlay(picture.image, picture.map, low, high, result.threshold)


def read(name: str) -> bytes:
    """One of the page's own files."""
    return resources.files(__package__).joinpath(name).read_bytes()


def _shown(result: PartResult) -> dict[str, Any]:
    row = schema.dump(result)
    return {**{name: row[name] for name in _SHOWN}, "created": result.created}


def _key(result: PartResult) -> str:
    return f"{result.run}-{result.result}"
