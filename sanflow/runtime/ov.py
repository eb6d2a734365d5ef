"""OpenVINO behind the engine contract, on the CPU; it reads both the IR and the ONNX target.

Settings, and why:
- precision f32: without the hint OpenVINO computes in bfloat16 wherever the processor can, so the
  same bundle would give other scores on other machines;
- latency mode, one stream: one part at a time, all threads on it;
- no pinning: two processes that pin their threads pin them to the same cores;
- no model cache: nothing is written to disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ..errors import EngineError
from .engine import Engine, TensorSpec

_DTYPES = {"u8": "uint8", "f32": "float32"}


class OvEngine(Engine):
    """An ONNX graph, or the xml and bin of an IR, compiled by OpenVINO."""

    name = "openvino"

    def __init__(self, graph: bytes, weights: bytes | None, threads: int) -> None:
        core = openvino.Core()
        model = core.read_model(graph) if weights is None else core.read_model(graph, weights)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        super().__init__(
            openvino.__version__.split("-")[0],
            threads,
            tuple(map(_spec, model.inputs)),
            tuple(map(_spec, model.outputs)),
        )

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        found = self._request.infer({self.inputs[0].name: images}, share_inputs=True)
        # The request's arrays are its own buffers: the next call writes into them.
        return {spec.name: np.array(found[spec.name]) for spec in self.outputs}

    def _release(self) -> None:
        self._request = None


def _spec(port: Any) -> TensorSpec:
    name, shape = port.get_any_name(), port.get_partial_shape()
    if shape.is_dynamic:
        raise EngineError(
            f"openvino: {name} has the shape {shape}, expected fixed sizes; export the run again"
        )
    dtype = port.get_element_type().get_type_name()
    return TensorSpec(name, _DTYPES.get(dtype, dtype), tuple(shape.to_shape()))
