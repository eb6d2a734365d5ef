"""How an engine is set up on one machine: what changes its speed and never a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cores = Literal["auto", "performance", "efficient"]


@dataclass(frozen=True)
class Setting:
    """An engine and its knobs; one that the engine does not have keeps its default."""

    engine: str
    threads: int
    """For all inferences that run at the same time together."""
    in_flight: int = 1
    """Inferences at the same time; each has `threads / in_flight` threads."""
    pinned: bool = False
    """OpenVINO: each thread stays on one processor."""
    hyper_threading: bool | None = None
    """OpenVINO: whether two threads may share a physical core; None leaves it to the engine."""
    cores: Cores = "auto"
    """OpenVINO: which cores of a hybrid processor to use; `auto` leaves it to the engine."""
    spinning: bool = False
    """ONNX Runtime: idle threads wait busily, which is quicker and burns a core."""
    parallel: bool = False
    """ONNX Runtime: independent operators run at the same time."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}, expected at least 1")
        if self.in_flight < 1 or self.threads % self.in_flight:
            raise ValueError(
                f"in_flight is {self.in_flight}, expected a divisor of {self.threads} threads"
            )

    def __str__(self) -> str:
        words = [self.engine, f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        if self.in_flight > 1:
            words.append(f"{self.in_flight} in flight")
        if self.hyper_threading is not None:
            words.append("hyper-threading" if self.hyper_threading else "no hyper-threading")
        if self.cores != "auto":
            words.append(f"{self.cores} cores")
        words += [name for name in ("pinned", "spinning", "parallel") if getattr(self, name)]
        return ", ".join(words)
