"""What all machine cameras have in common: being chosen, set up, triggered, and read.

A driver's file says how; that a frame is whole, belongs to a trigger, and carries the camera's own
number is seen to here.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..frame import Frame
from ..source import Source, SourceError
from .delay import Delay
from .uri import Address, redacted

GIGE_IDS = 65536
"""GigE Vision counts frames with 16 bits, and leaves out 0."""

_log = logging.getLogger(__name__)


class Shot(NamedTuple):
    """What a driver handed over."""

    image: NDArray[Any] | None
    problem: str = ""
    sequence: int | None = None
    camera_time: float | None = None


class MachineCamera(Source):
    """One camera behind a driver. Whatever the driver raises becomes a SourceError."""

    can_trigger = True
    gige = False
    """Whether the camera numbers its frames as GigE Vision does; known once it is connected."""

    def __init__(self, address: Address, features: Mapping[str, str]) -> None:
        """`features` are the camera's own settings, by their GenICam names."""
        super().__init__(address.name)
        self._features = features
        self._delay = Delay()
        self._asked: tuple[int, float] | None = None
        """The part that was triggered and has no frame yet, and when."""

    def open(self) -> None:
        """Find the camera, set it up, and start it."""
        self._asked, self._delay = None, Delay()
        try:
            self._connect()
            self._set_up()
            self._start()
        except SourceError:
            raise
        except Exception as error:
            raise self._lost("cannot be opened", error) from None

    def read(self, timeout: float) -> Frame | None:
        """The next frame; in software mode, of a part that was asked for."""
        try:
            shot = self._grab(timeout)
        except SourceError:
            raise
        except Exception as error:
            raise self._lost("was lost", error) from None
        if shot is None:
            return None
        now = time.monotonic()
        received = now - self._delay(shot.camera_time, now)
        part, triggered = self._asked or (None, None)
        if self.mode == "software" and part is None:
            _log.warning("%s: a frame that nobody asked for", self.name)
            return None
        self._asked = None
        return Frame(
            shot.image,
            "ok" if shot.image is not None else "incomplete",
            received,
            triggered=triggered,
            part=part,
            sequence=shot.sequence,
            modulus=GIGE_IDS if self.gige else None,
            skips_zero=self.gige,
            camera_time=shot.camera_time,
            detail=shot.problem,
        )

    def trigger(self, part: int) -> None:
        """One exposure of this part."""
        begun = time.monotonic()
        try:
            self._fire()
        except SourceError:
            raise
        except Exception as error:
            raise self._lost("cannot be triggered", error) from None
        self._asked = part, begun

    def close(self) -> None:
        """Let go of the camera."""
        try:
            self._disconnect()
        except Exception as error:  # a camera that is gone cannot be let go of either
            _log.warning("%s: %s", self.name, self._lost("cannot be closed", error))

    def _set_up(self) -> None:
        """The user's settings, then the trigger; an external one's line is among the settings."""
        for name, value in self._features.items():
            if not self._has(name):
                raise SourceError(f"{self.name}: the camera has no setting {name}")
            self._apply(name, value)
        if not self._has("TriggerMode"):
            if self.mode != "free":
                raise SourceError(
                    f'{self.name}: this camera has no triggers; set [source] trigger = "free"'
                )
            return
        if self._has("TriggerSelector"):
            self._apply("TriggerSelector", self._features.get("TriggerSelector", "FrameStart"))
        self._apply("TriggerMode", "Off" if self.mode == "free" else "On")
        if self.mode == "software":
            self._apply("TriggerSource", "Software")

    def _apply(self, name: str, value: str) -> None:
        try:
            self._set(name, value)
        except Exception as error:
            raise SourceError(f"{self.name}: {name}={value}: {_sentence(error)}") from None

    def _lost(self, what: str, error: Exception) -> SourceError:
        return SourceError(f"{self.name}: the camera {what}: {_sentence(error)}")

    @abstractmethod
    def _connect(self) -> None:
        """Find the camera and take hold of it."""

    @abstractmethod
    def _has(self, name: str) -> bool:
        """Whether the camera has this setting."""

    @abstractmethod
    def _set(self, name: str, value: str) -> None:
        """Set it, from its text."""

    @abstractmethod
    def _start(self) -> None:
        """Begin to receive frames."""

    @abstractmethod
    def _fire(self) -> None:
        """Expose once."""

    @abstractmethod
    def _grab(self, timeout: float) -> Shot | None:
        """The next frame; None after `timeout` seconds."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Stop and let go; also what was never taken."""


def choose(name: str, wanted: str, cameras: Sequence[Sequence[str]]) -> int:
    """Which camera is meant, each known by several names; SourceError if none, or more than one.

    Without a wish, the only one there is.
    """
    known = "; ".join(" = ".join(dict.fromkeys(filter(None, names))) for names in cameras)
    if not cameras:
        raise SourceError(
            f"{name}: no camera was found; check its power, its cable, its address, and that its "
            "driver is installed"
        )
    found = [n for n, names in enumerate(cameras) if not wanted or wanted in names]
    if len(found) == 1:
        return found[0]
    if not found:
        raise SourceError(f"{name}: there is no camera {wanted!r}; found: {known}")
    raise SourceError(f"{name}: which of {len(found)} cameras? Name one of: {known}")


def number(text: str) -> float:
    """A setting's number; drivers take 7x for 7. Raises ValueError."""
    return float(int(text, 0)) if text.lower().startswith("0x") else float(text)


def _sentence(error: Exception) -> str:
    """The first line of what a driver says, without its places in C++ files."""
    text = (str(error) or type(error).__name__).strip().split("\n")[0]
    said, _, place = text.rpartition(" : ")
    return redacted(said if "thrown" in place else text)
