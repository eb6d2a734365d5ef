"""CUDA through NVIDIA's own cuda-python (the package cuda-bindings), from 12.6 on.

Every call returns its result code first; none is left unread. `cuCtxCreate` changed between major
versions, the primary context's calls did not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from cuda.bindings import driver
from numpy.typing import NDArray

from .cuda import Buffer, CudaBackend, CudaError, Handle
from .messages import explain

_MAPPED = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class CudaPython(CudaBackend):
    """The first GPU through `cuda.bindings.driver`."""

    def __init__(self) -> None:
        self.package = f"cuda-python {version('cuda-bindings')}"
        try:
            _call(driver.cuInit, 0)
        except RuntimeError as error:  # the binding looks for libcuda only now
            raise CudaError(f"cuda-python: {explain(str(error))}") from error
        self._device = _call(driver.cuDeviceGet, 0)
        name = _call(driver.cuDeviceGetName, 256, self._device)
        self.name = name.split(b"\0")[0].decode("utf-8", "replace").strip()
        attribute = driver.CUdevice_attribute
        self.sm = (
            self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.multiprocessors = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.integrated = bool(self._attribute(attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED))
        number = _call(driver.cuDriverGetVersion)
        self.driver = f"{number // 1000}.{number % 1000 // 10}"
        self._primary = _call(driver.cuDevicePrimaryCtxRetain, self._device)

    @contextmanager
    def bind(self) -> Iterator[None]:
        _call(driver.cuCtxPushCurrent, self._primary)
        try:
            yield
        finally:
            _call(driver.cuCtxPopCurrent)

    def alloc(self, size: int) -> Buffer:
        pointer = _call(driver.cuMemAlloc, size)
        return Buffer(int(pointer), size, owner=pointer)

    def pinned(self, size: int) -> Buffer:
        host = int(_call(driver.cuMemHostAlloc, size, _MAPPED))
        try:
            address = int(_call(driver.cuMemHostGetDevicePointer, host, 0))
        except CudaError:
            _call(driver.cuMemFreeHost, host)
            raise
        return Buffer(address, size, _view(host, size), host)

    def free(self, buffer: Buffer) -> None:
        give_back = driver.cuMemFree if buffer.array is None else driver.cuMemFreeHost
        _call(give_back, buffer.owner)

    def stream(self) -> Handle:
        made = _call(driver.cuStreamCreate, _NON_BLOCKING)
        return Handle(int(made), made)

    def destroy(self, handle: Handle) -> None:
        is_stream = isinstance(handle.owner, driver.CUstream)
        _call(driver.cuStreamDestroy if is_stream else driver.cuGraphExecDestroy, handle.owner)

    def h2d_async(self, target: Buffer, source: Buffer, stream: Handle) -> None:
        _call(driver.cuMemcpyHtoDAsync, target.owner, source.owner, target.size, stream.owner)

    def d2h_async(self, target: Buffer, source: Buffer, stream: Handle) -> None:
        _call(driver.cuMemcpyDtoHAsync, target.owner, source.owner, target.size, stream.owner)

    def sync(self, stream: Handle) -> None:
        _call(driver.cuStreamSynchronize, stream.owner)

    def capture(self, stream: Handle, work: Callable[[], None]) -> Handle:
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(driver.cuStreamBeginCapture, stream.owner, mode)
        try:
            work()
        except BaseException:
            # A stream stays unusable until its capture has been ended.
            graph = driver.cuStreamEndCapture(stream.owner)[1]
            if graph is not None and int(graph):
                driver.cuGraphDestroy(graph)
            raise
        graph = _call(driver.cuStreamEndCapture, stream.owner)
        try:
            made = _call(driver.cuGraphInstantiate, graph, 0)
        finally:
            _call(driver.cuGraphDestroy, graph)
        return Handle(int(made), made)

    def launch(self, graph: Handle, stream: Handle) -> None:
        _call(driver.cuGraphLaunch, graph.owner, stream.owner)

    def mem_info(self) -> tuple[int, int]:
        free, total = _call(driver.cuMemGetInfo)
        return int(free), int(total)

    def close(self) -> None:
        _call(driver.cuDevicePrimaryCtxRelease, self._device)

    def _attribute(self, which: Any) -> int:
        return int(_call(driver.cuDeviceGetAttribute, which, self._device))


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The results without their code: None, one value, or a tuple of them."""
    try:
        code, *values = function(*arguments)
    except ValueError as error:  # a result code of a newer driver than the package knows
        raise CudaError(f"{function.__name__}: {explain(str(error))}") from error
    if code != driver.CUresult.CUDA_SUCCESS:
        said = getattr(code, "name", str(code))
        raise CudaError(f"{function.__name__}: {explain(said)}")
    return tuple(values) if len(values) > 1 else values[0] if values else None


def _view(address: int, size: int) -> NDArray[np.uint8]:
    """The bytes at a host address, as an array that does not own them."""
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory)
