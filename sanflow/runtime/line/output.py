"""The output contract, for the fast side and for the slow one.

Fast outputs (a PLC's registers, a digital line) are told in the emitter's thread and must return at
once. Slow ones (archive, MQTT, OPC UA, webhooks) live in another process and are fed from the
journal: if they lag, fail or die, no verdict is late and no result is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import SanflowError
from .result import PartResult

State = Literal["Preoperational", "Halted", "Error", "Initialized", "Ready", "Running"]
"""OPC 40100-1's states: Initialized is loaded but not proven, Running judges parts."""
STATES: tuple[State, ...] = get_args(State)
"""A PLC reads their places here as numbers."""


class OutputError(SanflowError):
    """An output cannot be made or opened: what is missing, and what to install or check."""

    exit_code = 9


@dataclass(frozen=True)
class Picture:
    """What was seen, for the outputs that keep or show it."""

    image: NDArray[np.uint8]
    """RGB (H, W, 3) at the model's size."""
    map: NDArray[np.float32] | None
    """Anomaly map (H, W); None if the part was not judged."""


@dataclass(frozen=True)
class StationState:
    """What the station says of itself; sent when it changes and with every heartbeat."""

    state: State
    fault: str
    """In words, while the line must not trust the station; empty otherwise."""
    heartbeat: int
    """Counts verdicts (and proven idle checks): it stands still when the engine does."""
    bundle: str
    queue: int
    """Parts waiting."""
    warning: str = ""
    """In words, what a person should look at while verdicts stay right: a full disk, the slow side
    down; empty otherwise."""

    @property
    def trusted(self) -> bool:
        """Whether the line may trust its verdicts."""
        return self.state in ("Ready", "Running") and not self.fault

    @property
    def text(self) -> str:
        """All that is in words, on one line."""
        bundle = f", bundle {self.bundle[:12]}" if self.bundle else ""
        return ": ".join(filter(None, (self.state + bundle, self.fault, self.warning)))


class Control(Protocol):
    """What a PLC may ask of the station through an output: from any thread, returns at once."""

    def trigger(self, part: int) -> None:
        """The part with this id is in position: its deadline runs, it gets a verdict."""

    def swap(self, bundle: str) -> None:
        """Judge with this bundle from some next part on, once it is proven."""


class Output(ABC):
    """Somewhere the results go. One thread calls it, in the order of the parts.

    A slow output whose `emit` raises is given the same result again, after a growing wait: for ever
    on an OSError (a full disk empties again), a few times on anything else. It is told of each
    result at least once: a process that was killed may hand over its last ones again.
    """

    fast: ClassVar[bool] = False
    """Whether it is told in the emitter's thread, and so must return at once; otherwise it lives
    in the slow process."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def open(self) -> None:
        """Connect; an output whose other end is away opens all the same and retries by itself."""

    @abstractmethod
    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """One result. `picture` is there on the slow side if it was not overwritten meanwhile."""

    def attach(self, control: Control) -> None:  # noqa: B027  # most outputs ask nothing
        """Called once before `open`, on the fast side only: a PLC's requests go to `control`."""

    def meet(self, others: Callable[[], dict[str, dict[str, Any]]]) -> None:  # noqa: B027
        """Called once before `open`, on the slow side only: the health of each output there."""

    def announce(self, state: StationState) -> None:  # noqa: B027  # most outputs say nothing
        """The station's state changed, or its heart beat."""

    def health(self) -> dict[str, Any]:
        """Plain values for the health page: connected, sent, waiting, the last error."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Send what can be sent at once, and let go; never raises."""


def ailing(health: dict[str, Any]) -> str:
    """What an output's health says is wrong, in words; empty if nothing is."""
    said = str(health.get("trouble") or health.get("error") or "")
    if said:
        return said
    away = [key for key in ("connected", "listening") if health.get(key) is False]
    return f"not {away[0]}" if away else ""
