"""Calls that take turns in one process, and the engines they go to.

A ratio is only worth something between calls that were measured together: each round runs every
call once, so that whatever else the machine does slows all of them. Medians over rounds; `cpu_ms`
is the processor time of the whole process, which other jobs hardly change: the figure to read for
one thread on a busy machine.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino

from sanflow.runtime.machine import describe, load_average

RESULTS = Path(__file__).parent / "results"
Call = Callable[[], object]
Timing = dict[str, float]


def interleaved(
    calls: Mapping[str, Call], seconds: float, least: int = 5, most: int = 200
) -> dict[str, Timing]:
    """Milliseconds of each call: medians over rounds that last about `seconds` together."""
    for call in calls.values():
        call()
        call()
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - begin > seconds:
            break
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            wall[name].append(1e3 * (time.perf_counter() - start))
            cpu[name].append(1e3 * (time.process_time() - used))
    return {
        name: {
            "ms": round(statistics.median(wall[name]), 3),
            "cpu_ms": round(statistics.median(cpu[name]), 3),
            "best_ms": round(min(wall[name]), 3),
            "rounds": len(wall[name]),
        }
        for name in calls
    }


def compiled(
    graph: bytes | Path, threads: int, precision: str = "f32", profile: bool = False
) -> openvino.CompiledModel:
    """A graph in OpenVINO as sanflow's runtime sets it up; `precision` f32 or bf16."""
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": profile,
    }
    return core.compile_model(core.read_model(graph), "CPU", settings)


def in_openvino(graph: bytes | Path, threads: int, precision: str = "f32") -> Call:
    """One inference on a fixed random input."""
    model = compiled(graph, threads, precision)
    request, port = model.create_infer_request(), model.inputs[0]
    value = example(port.get_element_type().to_dtype(), tuple(port.shape))
    return lambda: request.infer({0: value}, share_inputs=True)


def in_onnxruntime(graph: bytes | Path, threads: int) -> Call:
    """One inference on a fixed random input."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    kind = np.dtype("uint8" if port.type == "tensor(uint8)" else "float32")
    value = example(kind, tuple(n if isinstance(n, int) else 1 for n in port.shape))
    return lambda: session.run(None, {port.name: value})


def example(kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Random pixels: uint8, or normal."""
    rng = np.random.default_rng(0)
    if kind == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.normal(size=shape).astype(kind)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    found = describe()
    return {
        "cpu": found.cpu,
        "isa": found.isa,
        "cpus": found.cpus,
        "load_average": load_average(),
        "nice": os.nice(0) if hasattr(os, "nice") else None,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__.split("-")[0],
    }
