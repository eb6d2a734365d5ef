"""From the compiled FP32 graph and a plan to the graph that is shipped: INT8, then FP16, then lint.

INT8 comes first: what it writes (Q/DQ around FP32 values) is what the half pass knows to convert.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from ..bundle.manifest import Target
from ..calibration.ranges import Ranges
from ..errors import InputError
from .half import to_half
from .lint import check_interface, lint
from .plan import Plan
from .quantise import Activation, quantise

ACTIVATIONS: dict[Target, Activation] = {"onnx": "int8", "openvino": "uint8", "tensorrt": "int8"}
"""The form each target gets: TensorRT takes int8 only, and may be given the ONNX target's graph;
CPUs are faster in uint8."""


def typed(
    graph: onnx.ModelProto,
    plan: Plan,
    ranges: Ranges | None,
    activation: Activation,
    floats: Literal["fp32", "fp16"] = "fp32",
    rounded: Mapping[str, NDArray[np.int8]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """The graph with each region in the precision of its plan; `floats` is what surrounds int8.

    `ranges` and `rounded` are for int8 regions, as `quantise` takes them.

    Raises InputError when a plan with int8 regions comes without ranges, and when the result is
    a graph that some engine could not run.
    """
    if "int8" in plan.regions.values():
        if ranges is None:
            raise InputError("the plan has int8 regions; give the ranges of their values")
        graph = quantise(graph, plan, ranges, activation, rounded)
    made = to_half(graph, plan, floats=floats)
    lint(made, uint8=activation == "uint8", bf16="bf16" in plan.regions.values())
    check_interface(made)
    return made
