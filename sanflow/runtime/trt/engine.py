"""A plan behind the engine contract: `in_flight` slots on the first GPU, each for one thread.

uint8 pixels go in as they are; normalising, the network and the score are all inside the plan, so
the host only decodes and resizes.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError
from ..engine import Engine
from .api import Api, Product
from .cuda import CudaBackend
from .messages import explain
from .slot import Slot


class PlanRefusedError(EngineError):
    """TensorRT does not load the plan; building it again may help."""


class TrtEngine(Engine):
    """A plan that TensorRT has deserialised."""

    name = "tensorrt"

    def __init__(
        self,
        api: Api,
        cuda: CudaBackend,
        plan: bytes,
        *,
        threads: int = 1,
        in_flight: int = 1,
        cuda_graphs: bool = True,
    ) -> None:
        """Takes over `cuda`, also if it fails. Raises PlanRefusedError or another EngineError."""
        self._cuda = cuda
        self._errors: deque[str] = deque(maxlen=8)
        self._slots: SimpleQueue[Slot | None] = SimpleQueue()
        self._loaded: Any = None
        with ExitStack() as held:
            held.callback(cuda.close)
            held.callback(self._unload)
            with cuda.bind():
                inputs, outputs = self._load(api, plan)
                super().__init__(api.version, threads, inputs, outputs, in_flight)
                made = [self._slot(cuda_graphs, held) for _ in range(in_flight)]
            self._held = held.pop_all()
        for slot in made:
            self._slots.put(slot)
        self.plain_launches = made[0].plain
        """Why no CUDA graph is used; empty where one is."""
        self._errors.clear()  # what was logged and did no harm

    def _load(self, api: Api, plan: bytes) -> Any:
        """Deserialise; inputs and outputs as TensorRT names them."""

        def heard(severity: str, text: str) -> None:
            if severity == "error":
                self._errors.append(text)

        logger = api.logger(heard)
        try:
            runtime = api.trt.Runtime(logger)
            engine = runtime.deserialize_cuda_engine(plan)
        except (TypeError, RuntimeError, MemoryError) as error:
            said = [*self._errors, str(error) or type(error).__name__]
            raise EngineError(f"{api.product} {api.version}: {explain(said[0])}") from error
        if engine is None:
            raise PlanRefusedError(
                f"{api.product} {api.version}: does not load the plan: "
                f"{explain(self._reason() or 'it gave no reason')}"
            )
        # Contexts need the engine, it the runtime, and both the logger.
        self._loaded = (engine, runtime, logger)
        return api.engine_specs(engine)

    def _slot(self, cuda_graphs: bool, held: ExitStack) -> Slot:
        slot = Slot(
            self._cuda, self._new_context, self.inputs, self.outputs, cuda_graphs, self._reason
        )
        held.callback(self._close_slot, slot)
        return slot

    def _new_context(self) -> Any:
        return self._loaded[0].create_execution_context()

    def _close_slot(self, slot: Slot) -> None:
        with self._cuda.bind():
            slot.close()

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        slot = self._slots.get()
        try:
            if slot is None:
                raise EngineError("closed")
            with self._cuda.bind():
                return slot.run(images)
        finally:
            self._slots.put(slot)

    def _release(self) -> None:
        # Each slot once it is idle: memory that the GPU still writes to must not be freed.
        for _ in range(self.in_flight):
            self._slots.get()
        self._slots.put(None)  # wakes whoever waits for a slot, one after the other
        self._held.close()

    def _unload(self) -> None:
        with self._cuda.bind():
            self._loaded = None

    def _reason(self) -> str:
        """The first error logged since this was last asked: the cause, the rest follow from it."""
        found = list(self._errors)
        self._errors.clear()
        return found[0] if found else ""


class RtxEngine(TrtEngine):
    """The same through TensorRT for RTX, whose plans are compiled for the GPU when loaded."""

    name = "tensorrt-rtx"


CLASSES: dict[Product, type[TrtEngine]] = {"tensorrt": TrtEngine, "tensorrt-rtx": RtxEngine}
