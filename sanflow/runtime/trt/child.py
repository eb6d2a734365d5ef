"""Inside the child process that builds a plan: NVIDIA's builder, and nothing that could be lost.

    stdin    one line of JSON (`Job`), then the timings, then the ONNX graph: the verified bytes
    stdout   one JSON object per line: {"phase", "done", "total"}, {"log", "text"}, and last
             {"built": seconds} or {"error": text}
    files    job.plan and job.timings, written anew

It runs in a process of its own because a build takes gigabytes, which end with it, and because on
a small device the system may kill it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ... import schema
from ...errors import EngineError, SanflowError, writing
from .. import private
from ..engine import TensorSpec
from .api import Api, Product, Recipe, load
from .messages import explain, row


@dataclass(frozen=True)
class Job:
    """What to build and where to put it."""

    product: Product
    recipe: Recipe
    workspace: int
    """Bytes."""
    tensors: tuple[TensorSpec, ...]
    """Inputs, then outputs, as the manifest has them."""
    plan: str
    timings: str
    timing_bytes: int
    """How many of the bytes after the first line are the timings."""
    sm: str = ""
    """The GPU's compute capability, such as 87; empty where no GPU is meant."""


def build(job: Job, timings: bytes, graph: bytes, say: Any) -> None:
    """Parse, check, build, and write plan and timings; `say` gets one mapping per event.

    Raises EngineError with what NVIDIA's log said, InputError if the disk does not take the plan.
    """
    errors: list[str] = []

    def heard(severity: str, text: str) -> None:
        if severity == "error":
            errors.append(text)
        say({"log": severity, "text": text})

    def told(phase: str, done: int, total: int) -> bool:
        say({"phase": phase, "done": done, "total": total})
        return True

    begin = time.perf_counter()
    api = load(job.product)
    logger = api.logger(heard)
    try:
        plan, timed = _build(api, job, timings, graph, logger, told)
    except SanflowError:
        raise
    except Exception as error:  # NVIDIA's factories raise TypeError, allocation raises MemoryError
        raise _failed(api, [*errors, f"{type(error).__name__}: {error}"]) from error
    if plan is None:
        raise _failed(api, errors or ["the builder returned nothing and logged no error"])
    with writing(Path(job.plan)):
        private.write(Path(job.plan), plan)
        if timed:
            private.write(Path(job.timings), timed)
    say({"built": time.perf_counter() - begin})


def _build(
    api: Api, job: Job, timings: bytes, graph: bytes, logger: Any, told: Any
) -> tuple[memoryview | None, bytes]:
    builder = api.trt.Builder(logger)
    network, parser = api.parse(builder, logger, graph)
    found = api.network_specs(network)
    # Damaged bytes can parse into an empty network.
    if set(found) != set(job.tensors) or len(found) != len(job.tensors):
        raise EngineError(
            f"the parsed graph has {', '.join(map(str, found)) or 'no tensors'}, the manifest says "
            f"{', '.join(map(str, job.tensors))}; export the run again"
        )
    config = api.configure(builder, job.recipe, job.workspace, job.sm)
    monitor = api.monitor(told)
    config.progress_monitor = monitor
    cache = api.timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    # The parser owns the weights that the network points to, and neither is the builder's.
    del parser, monitor
    if plan is None:
        return None, b""
    return memoryview(plan), b"" if cache is None else bytes(memoryview(cache.serialize()))


def _failed(api: Api, said: list[str]) -> EngineError:
    # The first error is the cause, the rest its consequences.
    known = [text for text in said if row(text) is not None]
    text = explain((known or said)[0])
    if not known and api.new_to_strong_types:
        text += (
            "; before 10.12 TensorRT is new to graphs that carry their own types: use --precision "
            "fp32, or update it"
        )
    return EngineError(f"{api.product} {api.version}: {text}")


def main() -> int:
    """Read a job, build it, report."""
    # Libraries print to standard output too: the protocol gets a pipe of its own.
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(event: dict[str, object]) -> None:
        protocol.write(json.dumps(event) + "\n")
        protocol.flush()  # raises once the parent is gone, which ends the build

    source: BinaryIO = sys.stdin.buffer
    job = schema.load(Job, json.loads(source.readline()), "job")
    timings = source.read(job.timing_bytes)
    try:
        build(job, timings, source.read(), say)
    except SanflowError as error:
        say({"error": str(error)})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
