"""ONNX Runtime behind the engine contract, on the CPU or, under another name, on an NVIDIA GPU.

Settings, and why:
- all graph optimisations: they run once, at opening, on a graph of fixed shapes;
- no spinning, unless asked for: by default every thread burns a core between two parallel sections
  and after the last one, which starves whatever else the inspection PC does (decoding, the PLC
  link);
- deterministic kernels, one operator at a time: the same bits on every call;
- INT8 around FP16 node by node, not as integer kernels: ONNX Runtime 1.31 then makes each bias an
  integer by the product of two FP16 scales, which underflows (maps were off by half their range);
- on the GPU no TF32, which would round FP32 products to 10 bits; and never the CPU in its place:
  ONNX Runtime goes on without a provider that it cannot load, so the session is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..bundle.onnx_wire import fields
from ..errors import EngineError
from .engine import Engine, TensorSpec

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_ERRORS_ONLY = 3
_HALF_SCALES = 19
"""The first opset that has Q/DQ with FP16 scales, and used for nothing else."""
_CUDA = "CUDAExecutionProvider"


class OrtEngine(Engine):
    """An ONNX file in an onnxruntime session, which does not need it any more once it is open."""

    name = "onnxruntime"
    providers: ClassVar[tuple[Any, ...]] = ("CPUExecutionProvider",)

    def __init__(
        self,
        graph: Path,
        threads: int,
        *,
        in_flight: int = 1,
        spinning: bool = False,
        parallel: bool = False,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads // in_flight
        options.inter_op_num_threads = 2 if parallel else 1
        if parallel:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.use_deterministic_compute = True
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        if _opset(graph) >= _HALF_SCALES:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session: Any = onnxruntime.InferenceSession(
            str(graph), options, providers=list(self.providers)
        )
        self._check_providers()
        super().__init__(
            onnxruntime.__version__,
            threads,
            tuple(map(_spec, self._session.get_inputs())),
            tuple(map(_spec, self._session.get_outputs())),
            in_flight,
        )

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        names = [spec.name for spec in self.outputs]
        arrays = self._session.run(names, {self.inputs[0].name: images})
        return dict(zip(names, arrays, strict=True))

    def _release(self) -> None:
        self._session = None

    def _check_providers(self) -> None:
        """Nothing to check: the CPU is always there."""


class OrtCudaEngine(OrtEngine):
    """The same on the first NVIDIA GPU."""

    name = "onnxruntime-cuda"
    providers: ClassVar[tuple[Any, ...]] = (
        (_CUDA, {"use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}),
        "CPUExecutionProvider",
    )

    def __init__(self, graph: Path, threads: int) -> None:
        if _CUDA not in onnxruntime.get_available_providers():
            raise EngineError(
                "onnxruntime-cuda: the installed onnxruntime has no CUDA provider; remove it and "
                'install the other one: pip uninstall onnxruntime, pip install "sanflow'
                '[onnxruntime-cuda]"'
            )
        super().__init__(graph, threads)

    def _check_providers(self) -> None:
        used = self._session.get_providers()
        if used[0] != _CUDA:
            raise EngineError(
                f"onnxruntime-cuda: CUDA could not be loaded, ONNX Runtime would compute with "
                f"{', '.join(used)}; install CUDA and cuDNN of the versions that onnxruntime-gpu "
                f"{onnxruntime.__version__} was built for, or use --engine onnxruntime"
            )


def _opset(graph: Path) -> int:
    versions = [
        value
        for field, entry in fields(np.memmap(graph, np.uint8, "r").data, "model")
        if field == 8 and isinstance(entry, memoryview)
        for part, value in fields(entry, "opset")
        if part == 2 and isinstance(value, int)
    ]
    return max(versions, default=0)


def _spec(node: Any) -> TensorSpec:
    if not all(isinstance(size, int) for size in node.shape):
        raise EngineError(
            f"onnxruntime: {node.name} has the shape {node.shape}, expected fixed sizes; "
            "export the run again"
        )
    return TensorSpec(node.name, _DTYPES.get(node.type, node.type), tuple(node.shape))
