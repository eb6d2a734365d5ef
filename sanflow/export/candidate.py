"""Candidates for the shipped graph: one plan each, as the bytes that a bundle would hold.

A bench keeps what all of them share: the compiled graph, and int8's ranges and weights, which are
found once, when the first int8 plan asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..bundle.manifest import LOWER, Precision, Target, graph_files
from ..calibration.ranges import Method as RangeRule
from ..calibration.ranges import Ranges, observe
from ..calibration.representative import NEEDED, choose, enough
from ..calibration.rounding import round_layers
from ..model.method import Method
from ..runtime.engine import Engine
from ..runtime.machine import default_threads
from ..runtime.registry import ENGINES, available_engines, default_setting, open_graph
from .emulate import EMULATED, Emulated
from .parts import Part
from .plan import Plan
from .quantise import Activation, layers, tensors
from .typed import typed

RANGES: dict[Activation, RangeRule] = {"int8": "mse", "uint8": "minmax"}
"""Which range of the good parts' values a form takes. What clips an anomaly lowers its score, and
anomalies lie beyond what good parts reach: uint8 has the steps to hold it all, int8, half as fine
where nothing is negative, has not."""


@dataclass(frozen=True)
class Candidate:
    """One plan's graph for one target."""

    plan: Plan
    target: Target
    activation: Activation | None
    """How int8 regions store activations; None where there is none."""
    files: dict[str, bytes]

    @property
    def precision(self) -> Precision:
        """The lowest of its regions."""
        return lowest(self.plan)

    @property
    def size(self) -> int:
        """Bytes of the graph's files."""
        return sum(map(len, self.files.values()))

    @property
    def judges(self) -> tuple[str, ...]:
        """What judges it here: engines, and the emulation of FP16 where a GPU may compute it."""
        engines = judges(self.target)
        if self.target == "tensorrt" and self.precision != "fp32":
            return (EMULATED, *engines)
        half = self.target == "onnx" and "fp16" in self.plan.regions.values()
        return (*engines, EMULATED) if half else engines

    def open(self, engine: str | None = None) -> Engine:
        """In one of `judges`, the first if none is named."""
        name = engine or self.judges[0]
        if name == EMULATED:
            (graph,) = self.files.values()
            return Emulated(graph, default_threads())
        return open_graph(self.files, default_setting(self.target, name))


@dataclass(frozen=True)
class Bench:
    """The compiled graph of one model, and what makes candidates of it."""

    graph: onnx.ModelProto
    target: Target
    activation: Activation
    model: Method[Any]
    good: tuple[Part, ...]
    """Calibration parts that ranges are taken from, and weights rounded for."""
    flows: bool = False
    """Whether a GPU computes the flows' products in lower precision, too."""

    def make(self, plan: Plan) -> Candidate:
        """The candidate of a plan."""
        quantised = "int8" in plan.regions.values()
        ranges, rounded = (self.ranges, self.rounded) if quantised else (None, {})
        # A GPU's int8 stands between FP16 values, a CPU's between FP32.
        around: Literal["fp16", "fp32"] = "fp16" if self.target == "tensorrt" else "fp32"
        graph = typed(self.graph, plan, ranges, self.activation, around, rounded)
        form = self.activation if quantised else None
        return Candidate(plan, self.target, form, _files(graph, self.target, lowest(plan)))

    def uniform(self, precision: Precision) -> Candidate:
        """The candidate of the target's policy for a precision."""
        if self.target == "tensorrt":
            return self.make(Plan.device(self.graph, precision, flows=self.flows))
        return self.make(Plan.uniform(self.graph, precision))

    @cached_property
    def ranges(self) -> Ranges:
        """Of every value that int8 may round."""
        lowered = Plan.uniform(self.graph, "int8")
        named = tensors(self.graph, lowered)
        return observe(self.graph, self._typical, named, RANGES[self.activation])

    @cached_property
    def rounded(self) -> dict[str, NDArray[np.int8]]:
        """The weights of every convolution that may be int8."""
        lowered = Plan.uniform(self.graph, "int8")
        return round_layers(self.graph, self._typical, layers(self.graph, lowered))

    @cached_property
    def _typical(self) -> list[NDArray[np.uint8]]:
        """Parts that look as different as they can."""
        return [self.good[i].image for i in choose(_features(self.model, self.good), NEEDED)]

    @property
    def warning(self) -> str | None:
        """What the user should know about the parts that the ranges were taken from."""
        return enough(self.ranges.count, self.ranges.growth)


def judges(target: Target) -> tuple[str, ...]:
    """The engines of this machine that open a graph before it is in a bundle."""
    return tuple(name for name in available_engines(target) if ENGINES[name].open_files)


def lowest(plan: Plan) -> Precision:
    """The lowest precision of a plan's regions."""
    return max(plan.regions.values(), key=LOWER.index)


def _files(graph: onnx.ModelProto, target: Target, precision: Precision) -> dict[str, bytes]:
    """The graph as the files of a bundle for the target."""
    names = graph_files(target, precision)
    if target == "openvino":
        from .openvino import to_ir  # OpenVINO is needed for its own target only

        return dict(zip(names, to_ir(graph), strict=True))
    return {names[0]: graph.SerializeToString(deterministic=True)}


def _features(model: Method[Any], parts: Sequence[Part]) -> NDArray[np.float64]:
    """Each part as the vector that the model sums its features up in."""
    with torch.inference_mode():
        rows = [model.summary(torch.from_numpy(part.image)[None])[0].numpy() for part in parts]
    return np.asarray(np.stack(rows), np.float64)
