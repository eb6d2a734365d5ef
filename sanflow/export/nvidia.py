"""NVIDIA's own parser and builder, asked on the exporting machine; they need no GPU for that.

TensorRT for RTX builds ahead of time on the processor, with the rules of TensorRT 11: what it
refuses, a device would refuse. Its plan is thrown away: plans are built where they run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..bundle import Bundle
from ..errors import EngineError
from ..runtime.engine import TensorSpec
from ..runtime.registry import installed
from ..runtime.trt import build
from ..runtime.trt.api import MODULES, Product, Recipe
from ..runtime.trt.child import Job

PRODUCT: Product = "tensorrt-rtx"
NOT_DONE = (
    "not asked: TensorRT for RTX is not installed here. It needs no GPU: "
    "pip install tensorrt-rtx-cu13, then export again"
)
WORKSPACE = 2**30
"""Bytes; a small device has no more to give."""


@dataclass(frozen=True)
class Accepted:
    """One graph that NVIDIA's builder made a plan of."""

    precision: str
    seconds: float
    plan_bytes: int


def installed_here() -> bool:
    """Whether the builder is on this machine; it is not imported."""
    return installed(MODULES[PRODUCT])


def accept(
    bundle: Bundle, progress: Callable[[str], None] = lambda line: None
) -> tuple[Accepted, ...]:
    """Have every graph of the bundle parsed and built, each in a child process.

    Raises EngineError with NVIDIA's words for the first graph that is refused.
    """
    manifest = bundle.manifest
    tensors = (manifest.input, *manifest.outputs)
    specs = tuple(TensorSpec(t.name, t.dtype, t.shape) for t in tensors)
    found = []
    for graph in manifest.graphs:
        found.append(build_plan(bundle.read(graph.files[0]), graph.precision, specs))
        progress(f"{graph.precision}: NVIDIA's builder made a plan in {found[-1].seconds:.1f} s")
    return tuple(found)


def build_plan(graph: bytes, precision: str, tensors: tuple[TensorSpec, ...]) -> Accepted:
    """Parse and build one ONNX graph with these inputs and outputs; the plan is thrown away.

    Raises EngineError with NVIDIA's words.
    """
    with tempfile.TemporaryDirectory() as folder:
        plan, timings = Path(folder) / "plan", Path(folder) / "timings"
        recipe = Recipe(tf32=precision != "fp32")
        job = Job(PRODUCT, recipe, WORKSPACE, tensors, str(plan), str(timings), 0)
        try:
            built = build.run(job, b"", graph, Path(folder) / "log", lambda *_: None)
        except EngineError as error:
            raise EngineError(f"NVIDIA's builder refuses the {precision} graph: {error}") from None
        return Accepted(precision, built.seconds, plan.stat().st_size)
