"""Whether the station may be trusted at the moment, in one word and in all details.

Healthy is: it says Ready or Running, has no fault, and its heart beats. The heart is the engine's;
when the whole real-time process stands still nobody says that there is a fault, and only the
missing beat tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..output import StationState


class Health:
    """What was said of the station last, and when its heart beat last."""

    def __init__(self, stale: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`stale` is the seconds that it may be silent."""
        self._stale, self._clock = stale, clock
        self.state: StationState | None = None
        self._beat = clock()

    def announce(self, state: StationState) -> None:
        """The station's state changed, or its heart beat."""
        if self.state is None or state.heartbeat != self.state.heartbeat:
            self._beat = self._clock()
        self.state = state

    @property
    def silent(self) -> float:
        """Seconds since the last heartbeat."""
        return self._clock() - self._beat

    @property
    def problem(self) -> str:
        """In words, why it is not healthy; empty while it is."""
        state = self.state
        if state is None:
            return "the station has said nothing yet"
        if state.fault:
            return state.fault
        if not state.trusted:
            return f"the station is {state.state}, not Ready"
        if self.silent > self._stale:
            return f"no heartbeat for {self.silent:.0f} s: the engine stands still"
        return ""

    def document(self, outputs: dict[str, dict[str, Any]], drift: dict[str, Any]) -> dict[str, Any]:
        """Plain values for the health page; `outputs` is how each of them fares."""
        state = self.state
        return {
            "healthy": not self.problem,
            "problem": self.problem,
            "state": state.state if state else "Unknown",
            "fault": state.fault if state else "",
            "warning": state.warning if state else "",
            "heartbeat": state.heartbeat if state else 0,
            "heartbeat_age_s": round(self.silent, 1),
            "queue": state.queue if state else 0,
            "bundle": state.bundle if state else "",
            "drift": drift,
            "outputs": outputs,
        }
