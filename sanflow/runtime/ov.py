"""OpenVINO behind the engine contract, on the CPU; it reads both the IR and the ONNX target.

Settings, and why:
- precision f32: what the graph leaves FP32 stays so. Without the hint OpenVINO computes everything
  in bfloat16 wherever the processor can, likelihoods too, and the same bundle would give other
  scores on other machines. A bf16 bundle has its types in the graph, region by region;
- latency mode, one stream per inference in flight, by default one with all threads on it;
- no pinning, unless asked for: two processes that pin their threads pin them to the same cores;
- no model cache, whose entries would have to be trusted.

The xml's weights are mapped, not read: compiling packs them anew, and pages that nobody looks at
again are the system's to take back. So the file must stay as it is while the engine is open: give
it a copy that nobody else writes to. The names may go.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ..errors import EngineError
from .engine import Engine, TensorSpec
from .setting import Cores

_CORES = {"performance": "PCORE_ONLY", "efficient": "ECORE_ONLY"}
_DTYPES = {"u8": "uint8", "f32": "float32"}


class OvEngine(Engine):
    """An ONNX file, or the xml and bin of an IR, compiled by OpenVINO."""

    name = "openvino"

    def __init__(
        self,
        files: Sequence[Path],
        threads: int,
        *,
        in_flight: int = 1,
        pinned: bool = False,
        hyper_threading: bool | None = None,
        cores: Cores = "auto",
    ) -> None:
        core = openvino.Core()
        if sys.platform == "win32":  # a mapped file cannot be removed there
            core.set_property({"ENABLE_MMAP": False})
        model = core.read_model(*files)
        _check_bf16(core, model)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": in_flight,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": pinned,
        }
        # Given only when asked for: without them the engine chooses by the processor's kind.
        if hyper_threading is not None:
            settings["ENABLE_HYPER_THREADING"] = hyper_threading
        if cores != "auto":
            settings["SCHEDULING_CORE_TYPE"] = _CORES[cores]
        compiled = core.compile_model(model, "CPU", settings)
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(in_flight):
            self._requests.put(compiled.create_infer_request())
        super().__init__(
            openvino.__version__.split("-")[0],
            threads,
            tuple(map(_spec, model.inputs)),
            tuple(map(_spec, model.outputs)),
            in_flight,
        )

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        request = self._requests.get()
        try:
            if request is None:
                raise EngineError("closed")
            found = request.infer({self.inputs[0].name: images}, share_inputs=True)
            # The request's arrays are its own buffers: the next call writes into them.
            return {spec.name: np.array(found[spec.name]) for spec in self.outputs}
        finally:
            self._requests.put(request)

    def _release(self) -> None:
        with suppress(Empty):
            while True:
                self._requests.get_nowait()
        self._requests.put(None)  # wakes whoever waits for a request, one after the other


def _check_bf16(core: Any, model: Any) -> None:
    """Refuse BF16 without hardware: OpenVINO would quietly compute it in FP32, to other scores."""
    bf16 = any(
        port.get_element_type() == openvino.Type.bf16
        for op in model.get_ops()
        for port in op.outputs()
    )
    if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineError(
            f"openvino: the bundle computes in bf16, which this processor "
            f"({core.get_property('CPU', 'FULL_DEVICE_NAME').strip()}) does not have; export the "
            "run with --precision int8 or fp32"
        )


def _spec(port: Any) -> TensorSpec:
    name, shape = port.get_any_name(), port.get_partial_shape()
    if shape.is_dynamic:
        raise EngineError(
            f"openvino: {name} has the shape {shape}, expected fixed sizes; export the run again"
        )
    dtype = port.get_element_type().get_type_name()
    return TensorSpec(name, _DTYPES.get(dtype, dtype), tuple(shape.to_shape()))
