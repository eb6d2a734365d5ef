"""How an engine is set up on one machine: what changes its speed, and, if asked for, its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cores = Literal["auto", "performance", "efficient"]
CudaChoice = Literal["auto", "cuda-python", "pycuda"]


@dataclass(frozen=True)
class Gpu:
    """What a user may ask of the engines on a GPU."""

    cuda_backend: CudaChoice = "auto"
    """The Python package for CUDA memory; `auto` is cuda-python, else pycuda."""
    allow_fallback: bool = False
    """TensorRT: where the asked precision fails, the next higher one steps in and says so."""


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
    gpu: Gpu = Gpu()
    cuda_graphs: bool = True
    """TensorRT: the whole inference is launched as one recorded graph, where that is possible."""

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
        if not self.cuda_graphs:
            words.append("no CUDA graphs")
        return ", ".join(words)
