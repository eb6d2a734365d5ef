"""Looking for drift, whichever bundle judges: each begins with its own calibration parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from ..result import PartResult
from . import reference
from .drift import Alarm, Drift, Signal
from .options import MonitorOptions

WORDS: dict[Signal, str] = {
    "rising": "good parts score higher than they did; look at light, focus, dirt, the parts' batch",
    "falling": "good parts score lower than they did; look at light and focus: defects may hide",
    "rejects": "more parts are rejected than is usual",
}
"""What a signal means, and what a person should do."""

_log = logging.getLogger(__name__)


class Watch:
    """One Drift at a time, of the bundle and engine that judge at the moment."""

    def __init__(self, options: MonitorOptions, folder: Path) -> None:
        """`folder` is the station's."""
        self._options, self._folder = options, folder
        self._who: tuple[str, str, float] | None = None
        self._drift: Drift | None = None
        self._lock = Lock()

    def look(self, result: PartResult) -> list[Alarm]:
        """The alarms that begin with a result; parts that nobody judged tell nothing."""
        if result.score is None or not self._options.drift_parts:
            return []
        who = (result.bundle, result.engine, result.threshold)
        with self._lock:
            if self._drift is None or who != self._who:
                self._who, self._drift = who, self._begin(result)
            begun = self._drift.add(result.score, result.part, result.created)
        for alarm in begun:
            _log.warning("drift at part %d: %s", alarm.part, WORDS[alarm.signal])
        return begun

    def evidence(self) -> Mapping[Signal, tuple[bool, float]]:
        """As Drift.evidence; nothing while nobody looks."""
        with self._lock:
            return {} if self._drift is None else self._drift.evidence()

    def document(self) -> dict[str, Any]:
        """Plain values for the health page."""
        with self._lock:
            drift = self._drift
            if drift is None:
                return {"calibration_parts": 0, "alarms": []}
            alarms = [{**vars(a), "text": WORDS[a.signal]} for a in drift.alarms.values()]
            return {"calibration_parts": drift.calibrated, "alarms": alarms}

    def _begin(self, result: PartResult) -> Drift:
        known = reference.find(self._folder, result.bundle, result.engine)
        scores = known.scores if known is not None else ()
        if not scores:
            _log.warning(
                "no calibration scores of bundle %s: only the share of rejects is looked at",
                result.bundle[:12],
            )
        options = self._options
        return Drift(scores, result.threshold, parts=options.drift_parts, rejects=options.rejects)
