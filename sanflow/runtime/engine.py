"""The engine contract: one verified graph, images in, scores and anomaly maps out.

Shapes are fixed and named. A wrong input is refused before the engine sees it, whatever an engine
raises becomes an EngineError, and what it returns belongs to the caller. One image gives the same
bits in every slot of a batch, whatever its neighbours; tests hold each engine to that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..bundle import Graph
from ..errors import EngineError, InputError


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and fixed shape of one input or output."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {self.shape}"


@dataclass(frozen=True)
class Output:
    """What the graph says about a batch; the arrays are the caller's own."""

    score: NDArray[np.float32]  # (N,)
    map: NDArray[np.float32]  # (N, H, W)


class Engine(ABC):
    """An opened graph. Close it or use `with`; `infer` may be called from `in_flight` threads."""

    name: ClassVar[str]
    graph: Graph
    """Which of a bundle's graphs it runs, hence which decision its scores have; whoever opens it
    from a bundle says so."""
    note: str = ""
    """What every result of this engine must say beside its name; empty if nothing."""

    def __init__(
        self,
        version: str,
        threads: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        in_flight: int = 1,
    ) -> None:
        if len(inputs) != 1 or {spec.name for spec in outputs} != {"score", "map"}:
            raise EngineError(
                f"{self.name}: the graph has inputs ({_listed(inputs)}) and outputs "
                f"({_listed(outputs)}), expected one input and the outputs score and map; "
                "give a graph that `sanflow export` wrote"
            )
        self.version = version
        self.threads = threads
        self.in_flight = in_flight
        self.inputs = inputs
        self.outputs = outputs
        self._open = True

    @property
    def batch(self) -> int:
        """Images per inference, N."""
        return self.inputs[0].shape[0]

    def filled(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The input of up to `batch` images (H, W, 3); the slots that are left are black.

        What lies in them cannot change the others' bits.
        """
        inputs = np.zeros(self.inputs[0].shape, np.uint8)
        inputs[: len(images)] = images
        return inputs

    def infer(self, images: NDArray[np.uint8]) -> Output:
        """uint8 (N, H, W, 3) -> scores and maps.

        Raises InputError if dtype or shape is not the graph's, EngineError if the engine fails.
        """
        closed = f"{self.name}: this engine is closed; open the bundle again"
        if not self._open:
            raise EngineError(closed)
        self._check_input(images)
        try:
            found = self._run(np.ascontiguousarray(images))
        except Exception as error:  # engines raise types of their own, some undocumented
            if not self._open:  # by another thread, since it was asked above
                raise EngineError(closed) from error
            raise EngineError(
                f"{self.name} {self.version}: inference failed: {in_one_line(error)}"
            ) from error
        for spec in self.outputs:
            array = found[spec.name]
            if str(array.dtype) != spec.dtype or array.shape != spec.shape:
                raise EngineError(
                    f"{self.name} {self.version}: returned {array.dtype} {array.shape}, "
                    f"expected {spec}"
                )
        return Output(found["score"], found["map"])

    def close(self) -> None:
        """Give the graph's memory back; closing twice is allowed."""
        if self._open:
            self._open = False
            self._release()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The outputs by name, in memory that no later call writes to.

        Another thread may have closed the engine meanwhile: it raises then, and never waits.
        """

    @abstractmethod
    def _release(self) -> None:
        """Drop everything the engine holds."""

    def _check_input(self, images: object) -> None:
        spec = self.inputs[0]
        if not isinstance(images, np.ndarray):
            raise InputError(f"given {type(images).__name__}, expected a NumPy array {spec}")
        if str(images.dtype) != spec.dtype or images.shape != spec.shape:
            raise InputError(
                f"given {images.dtype} {images.shape}, expected {spec}; bring images to size "
                "with the bundle's pixel_path and fill the batch (Detector does both)"
            )


def in_one_line(error: Exception) -> str:
    """What an engine says of its failure, without the line breaks of its log."""
    return " ".join(str(error).split())


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs))
