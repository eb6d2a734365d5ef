"""NVIDIA's Python module and every difference between its versions; nobody else imports it.

TensorRT 10.3 (JetPack 6) to 11 and TensorRT for RTX share the calls used here. What differs:
networks are strongly typed by a flag before 11 and always from there on, STRICT_NANS came with
10.7, and the RTX builder knows which GPUs it has code for.
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ...errors import EngineError
from ..engine import TensorSpec
from .cuda import Device
from .messages import explain

Product = Literal["tensorrt", "tensorrt-rtx"]
MODULES: Final[dict[Product, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
OLDEST: Final[dict[Product, tuple[int, int]]] = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 0)}

# `trt.nptype` dies with NumPy 2 on old versions; the enum's names are the same in all of them.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
# Seen on devices: versions without kernels for a GPU that the product otherwise supports.
_NO_KERNELS = {((10, 13), (8, 7))}

Sink = Callable[[str, str], None]
"""Called with a severity (`error`, `warning`, `info`) and a line of NVIDIA's log."""


@dataclass(frozen=True)
class Recipe:
    """How a plan is built; part of its key."""

    tf32: bool
    """Whether FP32 products may be rounded to TF32 (10 bits) inside."""
    level: int = 3
    """builder_optimization_level: 0 builds fastest, 5 searches longest."""


@dataclass(frozen=True)
class Api:
    """An imported module and its version."""

    product: Product
    trt: Any
    version: str

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor version."""
        return _number(self.version)

    @property
    def new_to_strong_types(self) -> bool:
        """Whether graphs with types of their own are a young feature of this version."""
        return self.product == "tensorrt" and self.number < (10, 12)

    def logger(self, sink: Sink) -> Any:
        """An ILogger that hands every line from INFO up to `sink`; keep it while anything lives."""
        trt = self.trt
        names = {
            trt.ILogger.INTERNAL_ERROR: "error",
            trt.ILogger.ERROR: "error",
            trt.ILogger.WARNING: "warning",
            trt.ILogger.INFO: "info",
        }

        class Log(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in names:
                    sink(names[severity], text)

        return Log()

    def monitor(self, told: Callable[[str, int, int], bool]) -> Any:
        """An IProgressMonitor: `told(phase, done, total)` returns whether to go on."""
        trt = self.trt

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self.totals: dict[str, int] = {}

            def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
                self.totals[phase_name] = num_steps
                told(phase_name, 0, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return told(phase_name, step + 1, self.totals.get(phase_name, step + 1))

            def phase_finish(self, phase_name: str) -> None:
                self.totals.pop(phase_name, None)

        return Monitor()

    def parse(self, builder: Any, logger: Any, graph: bytes) -> tuple[Any, Any]:
        """A strongly typed network of an ONNX graph, and its parser, which owns the weights.

        Raises EngineError with every error of the parser and the node it names.
        """
        trt = self.trt
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flag)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            said = "; ".join(map(_parser_error, errors)) or "no reason given"
            raise EngineError(f"the parser refuses the graph: {explain(said)}")
        return network, parser

    def configure(self, builder: Any, recipe: Recipe, workspace: int, sm: str = "") -> Any:
        """A builder configuration; `workspace` in bytes.

        `sm`, such as 89, is for TensorRT for RTX, which builds for every GPU from Ampere on unless
        it is told which one.
        """
        trt = self.trt
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        config.builder_optimization_level = recipe.level
        if recipe.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        # Without it x - x becomes 0 even where x is not finite, and an overflow would pass as good.
        if hasattr(trt.BuilderFlag, "STRICT_NANS"):
            config.set_flag(trt.BuilderFlag.STRICT_NANS)
        if self.product == "tensorrt-rtx" and sm:
            self._target(config, sm)
        return config

    def _target(self, rtx_config: Any, sm: str) -> None:
        only = getattr(self.trt.ComputeCapability, f"SM{sm}")
        rtx_config.num_compute_capabilities = 1
        if not rtx_config.set_compute_capability(only, 0):
            raise EngineError(f"tensorrt-rtx {self.version}: does not build for SM {sm}")

    def timings(self, config: Any, known: bytes) -> Any:
        """A timing cache in use by `config`, to be kept until the build ends; None on RTX.

        TensorRT for RTX times nothing when it builds, and warns if it is given one.
        """
        if self.product == "tensorrt-rtx":
            return None
        # Timings that this version does not read give None.
        cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            return None
        return cache

    def network_specs(self, network: Any) -> tuple[TensorSpec, ...]:
        """Inputs, then outputs, of a parsed network."""
        tensors = [network.get_input(i) for i in range(network.num_inputs)]
        tensors += [network.get_output(i) for i in range(network.num_outputs)]
        return tuple(TensorSpec(t.name, self.dtype(t.dtype), tuple(t.shape)) for t in tensors)

    def engine_specs(self, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a deserialised plan; EngineError for one that is not linear."""
        trt = self.trt
        found: dict[bool, list[TensorSpec]] = {True: [], False: []}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            place = engine.get_tensor_location(name), engine.get_tensor_format(name)
            if place != (trt.TensorLocation.DEVICE, trt.TensorFormat.LINEAR):
                raise EngineError(f"{self.product}: {name} is {place}, expected linear on the GPU")
            dtype = self.dtype(engine.get_tensor_dtype(name))
            found[is_input].append(TensorSpec(name, dtype, tuple(engine.get_tensor_shape(name))))
        return tuple(found[True]), tuple(found[False])

    def dtype(self, value: Any) -> str:
        """NumPy's name of a DataType; TensorRT's own where NumPy has none."""
        return _DTYPES.get(value.name, str(value.name))

    def check_device(self, device: Device) -> None:
        """Refuse a GPU that this product or version has no code for, before minutes are spent."""
        sm = "".join(map(str, device.sm))
        if self.product == "tensorrt-rtx":
            members = self.trt.ComputeCapability.__members__
            known = [match[1] for name in members if (match := re.fullmatch(r"SM(\d+)", name))]
            if sm not in known:
                raise EngineError(
                    f"tensorrt-rtx {self.version}: has no code for {device.name} (SM {sm}), only "
                    f"for SM {', '.join(known)}; use --engine tensorrt or onnxruntime-cuda"
                )
        elif (self.number, device.sm) in _NO_KERNELS:
            raise EngineError(
                f"tensorrt {self.version}: "
                + explain(f"Target GPU SM {sm} is not supported by this TensorRT")
            )


def load(product: Product) -> Api:
    """Import the product's module; EngineError says what is missing, too old, or does not fit."""
    name = MODULES[product]
    try:
        trt = importlib.import_module(name)
    except ImportError as error:
        raise EngineError(f"{product}: {explain(str(error))}") from error
    api = Api(product, trt, str(trt.__version__))
    oldest = OLDEST[product]
    if api.number < oldest:
        raise EngineError(
            f"{product} {api.version} is too old, expected {oldest[0]}.{oldest[1]} or newer: "
            + (
                "install JetPack 6.1 or newer, or use --engine onnxruntime"
                if platform.machine() == "aarch64"
                else f"pip install --upgrade {product}"
            )
        )
    return api


def _number(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    if not match:
        raise EngineError(f"TensorRT's version {version!r} is not understood; install it again")
    return int(match[1]), int(match[2])


def _parser_error(error: Any) -> str:
    node = error.node_name()
    place = f"node {node} ({error.node_operator()}): " if node else ""
    return f"{place}{error.desc()}"
