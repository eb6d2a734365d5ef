"""CUDA through pycuda, where that is what a device has; it has no CUDA graphs.

pycuda keeps a stack of contexts per thread and ends the process if a thread dies with one on it,
hence push and pop around every use, and never `pycuda.autoinit`. Detaching a primary context would
leave it on the driver's own stack, once per engine, so it is retained once and kept.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pycuda
import pycuda.driver as driver

from .cuda import Buffer, CudaBackend, CudaError, Handle
from .messages import explain

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class PyCuda(CudaBackend):
    """The first GPU through `pycuda.driver`."""

    def __init__(self) -> None:
        self.package = f"pycuda {pycuda.VERSION_TEXT}"
        _call(driver.init)
        device = _call(driver.Device, 0)
        self.name = device.name().strip()
        self.sm = device.compute_capability()
        attribute = driver.device_attribute
        self.multiprocessors = int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT))
        self.integrated = bool(device.get_attribute(attribute.INTEGRATED))
        number = driver.get_driver_version()
        self.driver = f"{number // 1000}.{number % 1000 // 10}"
        self._primary = _primary()

    @contextmanager
    def bind(self) -> Iterator[None]:
        _call(self._primary.push)
        try:
            yield
        finally:
            driver.Context.pop()

    def alloc(self, size: int) -> Buffer:
        made = _call(driver.mem_alloc, size)
        return Buffer(int(made), size, owner=made)

    def pinned(self, size: int) -> Buffer:
        flags = driver.host_alloc_flags.DEVICEMAP
        array = _call(driver.pagelocked_empty, size, np.uint8, mem_flags=flags)
        return Buffer(int(array.base.get_device_pointer()), size, array, array.base)

    def free(self, buffer: Buffer) -> None:
        _call(buffer.owner.free)

    def stream(self) -> Handle:
        made = _call(driver.Stream, _NON_BLOCKING)
        return Handle(int(made.handle), made)

    def destroy(self, handle: Handle) -> None:
        """Nothing to do: pycuda gives a stream back with its last reference."""

    def h2d_async(self, target: Buffer, source: Buffer, stream: Handle) -> None:
        _call(driver.memcpy_htod_async, target.owner, source.array, stream.owner)

    def d2h_async(self, target: Buffer, source: Buffer, stream: Handle) -> None:
        _call(driver.memcpy_dtoh_async, target.array, source.owner, stream.owner)

    def sync(self, stream: Handle) -> None:
        _call(stream.owner.synchronize)

    def capture(self, stream: Handle, work: Callable[[], None]) -> Handle:
        raise CudaError(explain(f"{self.package} cannot capture CUDA graphs; cuda-python can"))

    def launch(self, graph: Handle, stream: Handle) -> None:
        raise CudaError(f"{self.package} has no CUDA graphs to launch")

    def mem_info(self) -> tuple[int, int]:
        free, total = _call(driver.mem_get_info)
        return int(free), int(total)

    def close(self) -> None:
        """Nothing to do: the primary context stays for the next engine."""


@cache
def _primary() -> Any:
    """The first GPU's primary context, detached at exit: pycuda itself would do it wrongly."""
    retained = _call(_call(driver.Device, 0).retain_primary_context)
    atexit.register(retained.detach)
    return retained


def _call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        return function(*arguments, **named)
    except driver.Error as error:
        raise CudaError(f"pycuda: {explain(str(error))}") from error
