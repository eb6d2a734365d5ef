"""One execution context with a stream and buffers of its own: one inference at a time.

Addresses and shapes never change, so the whole sequence (copy in, compute, copy out) is recorded
once as a CUDA graph and then launched with one call. Where GPU and CPU share their memory the
buffers are mapped and nothing is copied. Every flag that TensorRT returns is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError
from ..engine import TensorSpec
from .cuda import Buffer, CudaBackend, CudaError, Handle
from .messages import explain

WARM_UPS = 2
"""Runs before recording: the first ones allocate and load kernels, which no graph may hold."""


@dataclass(frozen=True)
class _Tensor:
    """An input or output: what the host sees, and what TensorRT is given."""

    view: NDArray[Any]
    host: Buffer
    device: Buffer
    """The same buffer where memory is shared."""


class Slot:
    """Every method, the constructor too, must be called inside `cuda.bind()`."""

    def __init__(
        self,
        cuda: CudaBackend,
        make_context: Callable[[], Any],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        cuda_graph: bool,
        said: Callable[[], str],
    ) -> None:
        """`said` gives the last error of TensorRT's log. Raises EngineError."""
        self._cuda, self._said = cuda, said
        self._graph: Handle | None = None
        self.plain = "asked for" if not cuda_graph else ""
        """Why launches are plain; empty where a CUDA graph is used."""
        with ExitStack() as held:
            self._stream = cuda.stream()
            held.callback(cuda.destroy, self._stream)
            self._in = [self._tensor(spec, held) for spec in inputs]
            self._out = {spec.name: self._tensor(spec, held) for spec in outputs}
            # Held by nobody else: an error keeps its callers' variables alive, and a context that
            # outlives the engine keeps it on the GPU. It goes before the buffers it points to.
            held.callback(self._drop_context)
            self._context = make_context()
            if self._context is None:
                why = explain(said() or "out of memory")
                raise EngineError(f"TensorRT has no memory for an execution context: {why}")
            self._connect((*inputs, *outputs))
            held.callback(self._settle)
            for _ in range(WARM_UPS):
                self._enqueue()
                cuda.sync(self._stream)
            if cuda_graph:
                self._record(held)
            self._held = held.pop_all()

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The outputs by name for one full batch, in new arrays."""
        np.copyto(self._in[0].view, images)
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph, self._stream)
        self._cuda.sync(self._stream)
        return {name: tensor.view.copy() for name, tensor in self._out.items()}

    def close(self) -> None:
        """Give everything back."""
        self._held.close()

    def _settle(self) -> None:
        """Wait for copies that a failure left in the stream: their memory is about to be freed."""
        with suppress(CudaError):
            self._cuda.sync(self._stream)

    def _drop_context(self) -> None:
        self._context = None

    def _tensor(self, spec: TensorSpec, held: ExitStack) -> _Tensor:
        dtype = np.dtype(spec.dtype)
        size = int(np.prod(spec.shape)) * dtype.itemsize
        host = self._cuda.pinned(size)
        held.callback(self._cuda.free, host)
        device = host
        if not self._cuda.integrated:
            device = self._cuda.alloc(size)
            held.callback(self._cuda.free, device)
        assert host.array is not None
        view = host.array.view(dtype).reshape(spec.shape)
        view.fill(0)
        return _Tensor(view, host, device)

    def _connect(self, specs: tuple[TensorSpec, ...]) -> None:
        for spec, tensor in zip(specs, (*self._in, *self._out.values()), strict=True):
            if not self._context.set_tensor_address(spec.name, tensor.device.address):
                raise EngineError(f"TensorRT refuses the address of {spec.name}: {self._why()}")

    def _enqueue(self) -> None:
        cuda, stream = self._cuda, self._stream
        for tensor in self._in:
            if tensor.device is not tensor.host:
                cuda.h2d_async(tensor.device, tensor.host, stream)
        if not self._context.execute_async_v3(stream.address):
            raise EngineError(f"TensorRT did not start the inference: {self._why()}")
        for tensor in self._out.values():
            if tensor.device is not tensor.host:
                cuda.d2h_async(tensor.host, tensor.device, stream)

    def _record(self, held: ExitStack) -> None:
        """Try to use a graph; whatever speaks against it, plain launches give the same results."""
        try:
            graph = self._cuda.capture(self._stream, self._enqueue)
        except EngineError as error:
            self.plain = str(error)
            return
        held.callback(self._cuda.destroy, graph)
        try:
            self._cuda.launch(graph, self._stream)
            self._cuda.sync(self._stream)
        except EngineError as error:
            self.plain = str(error)
            return
        self._graph = graph

    def _why(self) -> str:
        return explain(self._said() or "it gave no reason")
