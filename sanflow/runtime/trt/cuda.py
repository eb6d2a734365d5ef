"""CUDA as this package needs it: memory, one stream, graphs; whatever Python package provides them.

Both providers use the device's primary context, so several engines and PyTorch share one. It is
current only inside `bind`, pushed and popped: pycuda ends the process if a thread dies with a
context on its stack, and nobody else's current context is ever replaced.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError, InputError
from ..setting import CudaChoice
from .messages import explain

CHOICES: Final[tuple[CudaChoice, ...]] = get_args(CudaChoice)


class CudaError(EngineError):
    """A CUDA call failed; the message says which, and what to do."""


@dataclass(frozen=True)
class Buffer:
    """Memory of the GPU, or of the host where `array` shows it; `address` is the GPU's."""

    address: int
    size: int
    array: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    """Host memory: what is pinned; None for memory that only the GPU reaches."""
    owner: Any = field(default=None, repr=False, compare=False)
    """The provider's object."""


@dataclass(frozen=True)
class Handle:
    """A stream or an instantiated graph: the number TensorRT takes, and the provider's object."""

    address: int
    owner: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Device:
    """What the GPU is, and how much of its memory was free when it was asked."""

    name: str
    sm: tuple[int, int]
    """Compute capability."""
    multiprocessors: int
    driver: str
    """The newest CUDA version that the driver supports."""
    integrated: bool
    """Whether GPU and CPU share their memory, as on a Jetson."""
    free: int
    """Bytes."""
    total: int
    package: str
    """The Python package that was asked, and its version."""


class CudaBackend(Protocol):
    """One GPU, its facts as in `Device`. Every call but `close` must lie inside `with bind():`."""

    package: str
    name: str
    sm: tuple[int, int]
    multiprocessors: int
    driver: str
    integrated: bool

    @abstractmethod
    def bind(self) -> AbstractContextManager[None]:
        """Make the primary context current for this thread, and give the thread back as it was."""

    @abstractmethod
    def alloc(self, size: int) -> Buffer:
        """`size` bytes on the GPU."""

    @abstractmethod
    def pinned(self, size: int) -> Buffer:
        """`size` bytes of page-locked host memory, mapped into the GPU's addresses."""

    @abstractmethod
    def free(self, buffer: Buffer) -> None:
        """Give a buffer back; no work may use it any more."""

    @abstractmethod
    def stream(self) -> Handle:
        """A new stream that does not wait for the default one."""

    @abstractmethod
    def destroy(self, handle: Handle) -> None:
        """Give a stream or graph back."""

    @abstractmethod
    def h2d_async(self, target: Buffer, source: Buffer, stream: Handle) -> None:
        """Copy a pinned buffer to the GPU, in the stream's order."""

    @abstractmethod
    def d2h_async(self, target: Buffer, source: Buffer, stream: Handle) -> None:
        """Copy from the GPU to a pinned buffer, in the stream's order."""

    @abstractmethod
    def sync(self, stream: Handle) -> None:
        """Wait for everything in the stream."""

    @abstractmethod
    def capture(self, stream: Handle, work: Callable[[], None]) -> Handle:
        """Record what `work` puts into the stream as a graph; CudaError where that cannot be."""

    @abstractmethod
    def launch(self, graph: Handle, stream: Handle) -> None:
        """Put a recorded graph into the stream."""

    @abstractmethod
    def mem_info(self) -> tuple[int, int]:
        """Free and total bytes of GPU memory."""

    @abstractmethod
    def close(self) -> None:
        """Release the primary context."""


def open_cuda(choice: CudaChoice = "auto") -> CudaBackend:
    """The first GPU through the asked package; `auto` is cuda-python, else pycuda.

    Raises InputError for an unknown package, CudaError if there is no package, driver or GPU.
    """
    if choice not in CHOICES:
        raise InputError(f"unknown CUDA package {choice!r}; known: {', '.join(CHOICES)}")
    absent = []
    for name, load in (("cuda-python", _cuda_python), ("pycuda", _pycuda)):
        if choice not in ("auto", name):
            continue
        try:
            return load()
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("cuda", "pycuda"):
                raise
            absent.append(name)
        except ImportError as error:
            # pycuda's driver module is linked with libcuda: without one it cannot be imported.
            raise CudaError(f"{name}: {explain(str(error))}") from error
    raise CudaError(explain(f"{' and '.join(absent)}: not installed"))


def device(choice: CudaChoice = "auto") -> Device:
    """The first GPU's facts; the primary context is given back. Raises as `open_cuda` does."""
    cuda = open_cuda(choice)
    try:
        with cuda.bind():
            free, total = cuda.mem_info()
    finally:
        cuda.close()
    return Device(
        cuda.name,
        cuda.sm,
        cuda.multiprocessors,
        cuda.driver,
        cuda.integrated,
        free,
        total,
        package=cuda.package,
    )


def _cuda_python() -> CudaBackend:
    from .cuda_python import CudaPython

    return CudaPython()


def _pycuda() -> CudaBackend:
    from .pycuda import PyCuda

    return PyCuda()
