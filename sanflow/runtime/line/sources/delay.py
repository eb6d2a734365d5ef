"""How long a picture waited before it was read: in a network, in a driver's buffers, in a decoder.

Two clocks tell, the camera's and this computer's, whose difference nobody knows and which drift.
The pictures that came fastest are taken for not delayed; what came later than they did has waited.
"""

from __future__ import annotations

DRIFT = 2e-4
"""How far two clocks may run apart, in seconds per second; usual ones do by a tenth of it."""


class Delay:
    """Told of each picture of one connection, in their order."""

    def __init__(self) -> None:
        self._least = 0.0
        self._before: tuple[float, float] | None = None

    def __call__(self, camera: float | None, now: float) -> float:
        """Seconds that a picture of this camera time waited; 0 where the camera has no clock."""
        if camera is None:
            return 0.0
        behind = now - camera
        if self._before is None or camera < self._before[0]:  # a clock that was set back
            self._least = behind
        else:
            self._least = min(self._least + DRIFT * (now - self._before[1]), behind)
        self._before = camera, now
        return behind - self._least
