"""A stand-in for NVIDIA's Python module: its exact names and habits, computing with ONNX Runtime.

Names come from surface.json, taken from the real bindings of each version: a name that a version
does not have is an AttributeError here too, and one that it has but that is not played raises
NotImplementedError. Habits of the real bindings, as measured: a failed build or a bad plan is None,
never an exception; an unknown tensor name or a missing address is False; addresses are plain ints;
parser, timing cache and monitor must live as long as the build needs them.

    STANDIN_VERSION   10.3.0 (default), 10.16.1 or 11.4.0
    STANDIN_FAULT     words of FAULTS, separated by commas
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import os
import signal
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np

__version__ = os.environ.get("STANDIN_VERSION", "10.3.0")
_API = json.loads((Path(__file__).parent / "surface.json").read_text("utf-8"))[__version__]
FAULTS = {
    "null_factory",  # no usable driver: pybind's factory returns a null pointer
    "parse",  # the parser refuses a node
    "empty",  # garbage parses into a network without tensors
    "none",  # the builder returns None and logs nothing
    "tactic",  # no implementation for a node, for lack of memory
    "dequantize",  # INT8 with FP16 scales on Orin
    "killed",  # the system kills the builder
    "crash",  # the builder crashes
    "hang",  # the builder takes very long
    "deserialize",  # the plan is for another device
    "no_context",  # no memory for an execution context
    "address",  # a tensor address is refused
    "enqueue",  # the inference does not start
    "enqueue_silently",  # the same without a word in the log
    "capturing",  # enqueueing refuses while the stream is captured
    "nan",  # not a number in the map
    "tf32",  # TF32 is too coarse for this graph
    "fp16",  # fp16 and int8 graphs come out wrong
    "build_fp16",  # fp16 and int8 graphs cannot be built
}
_MAGIC = b"STANDIN:"


def _faults() -> set[str]:
    found = set(filter(None, os.environ.get("STANDIN_FAULT", "").split(",")))
    assert found <= FAULTS, found - FAULTS
    return found


def _make_enum(name: str, values: dict[str, int]) -> Any:
    return enum.IntEnum(name, values)


class _Played(type):
    """A class whose instances have exactly the members of the surface."""

    def __new__(mcs, name: str, bases: tuple[type, ...], own: dict[str, Any]) -> Any:
        members = _API["classes"][name]["members"]
        allowed = {key for key in members if not key.startswith("__")}
        for key in [key for key in own if not key.startswith("_") and key not in allowed]:
            del own[key]
        for key in allowed - set(own):
            if members[key] in ("method", "property"):
                own[key] = _unplayed(name, key, members[key])

        def set_attribute(self: Any, key: str, value: Any) -> None:
            if not key.startswith("_") and (
                key not in allowed and not isinstance(self, (ILogger, IProgressMonitor))
            ):
                raise AttributeError(f"'{name}' object has no attribute '{key}'")
            object.__setattr__(self, key, value)

        if name not in ("ILogger", "IProgressMonitor"):
            own["__setattr__"] = set_attribute
        return super().__new__(mcs, name, bases, own)


def _unplayed(cls: str, key: str, kind: str) -> Any:
    def fail(self: Any, *rest: Any) -> Any:
        raise NotImplementedError(f"{cls}.{key} is not played")

    return fail if kind == "method" else property(fail)


for _name, _class in _API["classes"].items():
    if "enum" in _class:
        globals()[_name] = _make_enum(_name, _class["enum"])


class ILogger:
    Severity = enum.IntEnum(
        "Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
    )
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._ready = True


def _factory(logger: Any) -> None:
    if not isinstance(logger, ILogger) or not getattr(logger, "_ready", False):
        raise TypeError("__init__(): incompatible constructor arguments")
    if "null_factory" in _faults():
        logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


class ITensor(metaclass=_Played):
    def __init__(self, node: Any) -> None:
        self._node = node

    @property
    def name(self) -> str:
        return str(self._node.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._node.shape)

    @property
    def dtype(self) -> Any:
        return DataType.UINT8 if "uint8" in self._node.type else DataType.FLOAT  # noqa: F821


class ParserError(metaclass=_Played):
    def node_name(self) -> str:
        return "conv1"

    def node_operator(self) -> str:
        return "Conv"

    def desc(self) -> str:
        return "Non-zero zero point is not supported"


class INetworkDefinition(metaclass=_Played):
    def __init__(self, typed: bool) -> None:
        self._typed = typed
        self._graph = b""
        self._session: Any = None
        self._parser: Any = lambda: None

    @property
    def num_inputs(self) -> int:
        return len(self._session.get_inputs()) if self._session else 0

    @property
    def num_outputs(self) -> int:
        return len(self._session.get_outputs()) if self._session else 0

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._session.get_inputs()[index])

    def get_output(self, index: int) -> ITensor:
        return ITensor(self._session.get_outputs()[index])


class OnnxParser(metaclass=_Played):
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._logger = network, logger
        network._parser = weakref.ref(self)
        self._failed = False

    def parse(self, model: bytes) -> bool:
        assert isinstance(model, bytes)
        if "empty" in _faults():
            return True
        self._failed = "parse" in _faults()
        if not self._failed:
            self._network._graph = model
            self._network._session = _session(model)
        return not self._failed

    @property
    def num_errors(self) -> int:
        return int(self._failed)

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class ITimingCache(metaclass=_Played):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"t"


class IBuilderConfig(metaclass=_Played):
    def __init__(self) -> None:
        self._flags: set[Any] = {BuilderFlag.TF32}  # noqa: F821
        self._cache: Any = lambda: None
        self._monitor: Any = lambda: None
        self._workspace = 0
        self.builder_optimization_level = 3

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert pool == MemoryPoolType.WORKSPACE  # noqa: F821
        self._workspace = pool_size

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = weakref.ref(cache)
        return True

    def get_timing_cache(self) -> ITimingCache:
        found = self._cache()
        assert found is not None, "the timing cache was freed before the build ended"
        return found

    @property
    def progress_monitor(self) -> Any:
        return self._monitor()

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        self._monitor = weakref.ref(monitor)


class IHostMemory(bytes):
    """What `bytes(plan)` and `memoryview(plan)` read."""

    @property
    def nbytes(self) -> int:
        return len(self)


class Builder(metaclass=_Played):
    def __init__(self, logger: Any) -> None:
        _factory(logger)
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        strong = 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # noqa: F821
        always = __version__.startswith("11.")
        return INetworkDefinition(always or bool(flags & strong))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def build_serialized_network(self, network: Any, config: Any) -> IHostMemory | None:
        faults, log = _faults(), self._logger.log
        assert network._typed, "a weakly typed network ignores the precision in the graph"
        assert config._workspace >= 2**20
        assert network._parser() is not None, "the parser, which owns the weights, was freed"
        cache, monitor = config._cache(), config._monitor()
        assert cache is not None, "the timing cache was freed before the build"
        if len(cache._content) > 64:
            log(ILogger.WARNING, "timing cache is large")
        print("native chatter on standard output", flush=True)
        os.write(1, b"and more of it\n")
        log(ILogger.WARNING, "a warning of the builder")
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 4)
            for step in range(4):
                if not monitor.step_complete("Building Engine", step):
                    return None
            monitor.phase_finish("Building Engine")
        low = b"sanflow.fp16" in network._graph or b"sanflow.int8" in network._graph
        if "killed" in faults:
            os.kill(os.getpid(), signal.SIGKILL)
        if "crash" in faults:
            log(ILogger.ERROR, "about to fail")
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in faults:
            Path(os.environ["STANDIN_HANGS"]).write_text(str(os.getpid()))
            signal.pause()
        if "tactic" in faults or ("build_fp16" in faults and low):
            log(ILogger.ERROR, "Could not find any implementation for node {ForeignNode[conv1]}.")
            return None
        if "dequantize" in faults:
            log(ILogger.ERROR, "Could not infer output types for operation: 12: dequantize: dq1")
            return None
        if "none" in faults:
            return None
        head = {
            "version": __version__,
            "sm": os.environ.get("FAKECUDA_SM", "87"),
            "tf32": BuilderFlag.TF32 in config._flags,  # noqa: F821
            "strict": getattr(BuilderFlag, "STRICT_NANS", None) in config._flags,  # noqa: F821
            "low": low,
            "cached": len(cache._content),
        }
        return IHostMemory(_MAGIC + json.dumps(head).encode() + b"\n" + network._graph)


class Runtime(metaclass=_Played):
    def __init__(self, logger: Any) -> None:
        _factory(logger)
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data = bytes(serialized_engine)
        head, _, graph = data.removeprefix(_MAGIC).partition(b"\n")
        known = data.startswith(_MAGIC)
        if not known or "deserialize" in _faults():
            said = "The engine plan file is generated on an incompatible device, expecting compute"
            self._logger.log(ILogger.ERROR, f"{said} 8.6 got compute 8.7, please rebuild.")
            return None
        return ICudaEngine(json.loads(head), graph, self)


class ICudaEngine(metaclass=_Played):
    def __init__(self, head: dict[str, Any], graph: bytes, runtime: Any) -> None:
        self._head, self._runtime = head, runtime
        self._session = _session(graph)
        self._nodes = [*self._session.get_inputs(), *self._session.get_outputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self._nodes)

    def get_tensor_name(self, index: int) -> str:
        return str(self._nodes[index].name)

    def _tensor(self, name: str) -> ITensor:
        return next(ITensor(node) for node in self._nodes if node.name == name)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensor(name).dtype

    def get_tensor_mode(self, name: str) -> Any:
        is_input = name in {node.name for node in self._session.get_inputs()}
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT  # noqa: F821

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.DEVICE  # noqa: F821

    def get_tensor_format(self, name: str) -> Any:
        return TensorFormat.LINEAR  # noqa: F821

    def create_execution_context(self) -> Any:
        if "no_context" in _faults():
            self._runtime._logger.log(ILogger.ERROR, "OutOfMemory: no further information")
            return None
        return IExecutionContext(self)


_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class IExecutionContext(metaclass=_Played):
    def __init__(self, owner: ICudaEngine) -> None:
        self._owner = owner
        self._addresses: dict[str, int] = {}
        self._compute = _CALL(self._computed)
        self._driver = ctypes.CDLL("libcuda.so.1")

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not isinstance(memory, int):
            raise TypeError("set_tensor_address(): incompatible function arguments")
        if "address" in _faults() or all(node.name != name for node in self._owner._nodes):
            self._log("Given invalid tensor name or address")
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not isinstance(stream_handle, int):
            raise TypeError("execute_async_v3(): incompatible function arguments")
        faults = _faults()
        capturing = ctypes.c_int()
        stream = ctypes.c_void_p(stream_handle)
        self._driver.cuStreamIsCapturing(stream, ctypes.byref(capturing))
        if "capturing" in faults and capturing.value:
            self._log("Cuda Runtime: operation not permitted when stream is capturing")
            return False
        if "enqueue_silently" in faults:
            return False
        if "enqueue" in faults or len(self._addresses) < len(self._owner._nodes):
            self._log("enqueueV3: address of an output is not set")
            return False
        for node in self._owner._nodes:
            size = _nbytes(node)
            at = ctypes.c_ulonglong(self._addresses[node.name])
            assert self._driver.fakecuda_known(at, ctypes.c_size_t(size)), "not GPU memory"
        done = self._driver.fakecuda_enqueue(stream, self._compute, None)
        return bool(done == 0)

    def _computed(self, _: Any) -> int:
        """Runs when the stream gets to it."""
        try:
            owner = self._owner
            inputs = {n.name: self._array(n).copy() for n in owner._session.get_inputs()}
            names = [node.name for node in owner._session.get_outputs()]
            found = owner._session.run(names, inputs)
            head, faults = owner._head, _faults()
            wrong = ("tf32" in faults and head["tf32"]) or ("fp16" in faults and head["low"])
            for node, values in zip(owner._session.get_outputs(), found, strict=True):
                self._array(node)[...] = values * np.float32(1.5) if wrong else values
                if "nan" in faults and node.name == "map":
                    self._array(node).reshape(-1)[0] = np.nan
        except Exception as error:
            print(f"stand-in: {error!r}", file=sys.stderr)
            return 1
        return 0

    def _array(self, node: Any) -> Any:
        memory = (ctypes.c_uint8 * _nbytes(node)).from_address(self._addresses[node.name])
        return np.frombuffer(memory, _dtype(node)).reshape(node.shape)

    def _log(self, text: str) -> None:
        self._owner._runtime._logger.log(ILogger.ERROR, text)


def _dtype(node: Any) -> Any:
    return np.dtype(np.uint8 if "uint8" in node.type else np.float32)


def _nbytes(node: Any) -> int:
    return int(np.prod(node.shape)) * _dtype(node).itemsize


_SESSIONS: dict[str, Any] = {}


def _session(graph: bytes) -> Any:
    """The same session options as the engine `onnxruntime`, hence the same bits."""
    import onnxruntime

    key = hashlib.sha256(graph).hexdigest()
    if key not in _SESSIONS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        _SESSIONS[key] = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
    return _SESSIONS[key]


assert _API["classes"].keys() - {"HardwareCompatibilityLevel", "Logger", "ProfilingVerbosity"} <= (
    globals().keys()
), "a class of the surface is not played"
