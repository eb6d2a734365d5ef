"""INT8 as explicit QuantizeLinear and DequantizeLinear nodes, where a plan says int8.

Every Conv, Gemm and MatMul of an int8 region reads its activation through a pair of them, and its
weights through a DequantizeLinear of an int8 constant: symmetric, one scale per output channel, and
rounded so that errors cancel where `rounded` says how (calibration/rounding.py). Biases stay float,
and take back what rounded weights add to a channel in the mean. A tensor has one pair, shared by
all that compute with it in int8; who needs it in float reads it as it was. Where data only moves
between a value and the layer (padding, pooling), a pair stands before the move too, so that the
moved bytes are int8; both inputs of a residual Add have one, so that a block stays int8 from end to
end.

Two forms, one set of ranges:

    int8   symmetric, zero point 0: what TensorRT takes
    uint8  non-negative values 0..255 with zero point 0, others with zero point 128, and a pair on
           a layer's result too where the region goes on: what ONNX Runtime fuses into integer
           kernels, Relu included, and OpenVINO as well; twice as fine where nothing is negative
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..calibration.ranges import LEVELS, Ranges
from ..calibration.rounding import nearest, scales
from ..errors import InputError
from .fold import Value, constants_of
from .plan import Plan, region_of
from .whole import whole_pixels

Activation = Literal["int8", "uint8"]
Use = tuple[onnx.NodeProto, int]
"""A node and which of its inputs."""

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_MOVES = frozenset({"Pad", "MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Gather"})
_NON_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Exp"})
_KEEP_SIGN = _MOVES | {"Add", "Concat", "AveragePool", "GlobalAveragePool"}


def tensors(graph: onnx.ModelProto, plan: Plan) -> tuple[str, ...]:
    """The values whose ranges `quantise` needs, whatever the activation type."""
    survey = _Survey(graph, plan)
    names = [survey.source(name) for form in get_args(Activation) for name in survey.sites(form)]
    return tuple(dict.fromkeys([*names, *(survey.unpadded(n.input[0]) for n in survey.weighted)]))


def layers(graph: onnx.ModelProto, plan: Plan) -> tuple[str, ...]:
    """The convolutions whose weights become int8, by node name."""
    return tuple(n.name for n in _Survey(graph, plan).weighted if n.op_type == "Conv")


def quantise(
    graph: onnx.ModelProto,
    plan: Plan,
    ranges: Ranges,
    activation: Activation = "int8",
    rounded: Mapping[str, NDArray[np.int8]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """A copy of an FP32 `graph` with the int8 regions of `plan` in Q/DQ form.

    `ranges` are those of `tensors(graph, plan)`; `rounded` the weights of `layers(graph, plan)`,
    to the nearest step where there are none. Raises InputError when a range is missing.
    """
    if activation not in get_args(Activation):
        raise InputError(f"activation {activation!r} is not one of int8, uint8")
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    whole = whole_pixels(made, plan)
    survey = _Survey(made, plan)
    writer = _Writer(constants_of(made), rounded)
    sites = survey.sites(activation)
    codings = {}
    for name in sites:
        source = survey.source(name)
        signed = activation == "int8" or not survey.non_negative(source)
        largest = LEVELS if source in whole else ranges.maximum(source)
        codings[name] = _Coding.of(largest, signed, activation)
    weights = {}
    for node in survey.weighted:
        given = survey.unpadded(node.input[0])
        origin, shift = whole.get(given, (given, 0))
        weights[node.name] = writer.weight(node, ranges.mean(origin) + shift)
    written: list[onnx.NodeProto] = []
    for name in (entry.name for entry in made.graph.input):
        if name in sites:
            written += writer.pair(name, sites[name], codings[name])
    for node in made.graph.node:
        written += [*weights.get(node.name, ()), node]
        for name in node.output:
            if name in sites:
                written += writer.pair(name, sites[name], codings[name])
    del made.graph.node[:]
    made.graph.node.extend(written)
    used = {name for node in written for name in node.input}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in used]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*kept, *writer.new.values()])
    return made


@dataclass(frozen=True)
class _Coding:
    """How real values become integers: round(x / scale) + zero."""

    scale: np.float32
    zero: NDArray[np.generic]

    @classmethod
    def of(cls, maximum: float, signed: bool, activation: Activation) -> _Coding:
        # A value that is always 0 may have any scale; engines refuse a scale of 0.
        levels = LEVELS if signed else 255
        scale = np.float32(maximum / levels if maximum > 0 else 1)
        if activation == "int8":
            return cls(scale, np.array(0, np.int8))
        return cls(scale, np.array(128 if signed else 0, np.uint8))


class _Survey:
    """Which nodes compute in int8, and which of their inputs are quantised."""

    def __init__(self, graph: onnx.ModelProto, plan: Plan) -> None:
        self._plan = plan
        self._nodes = graph.graph.node
        self._constants = constants_of(graph)
        self._producer = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[Use]] = defaultdict(list)
        for node in self._nodes:
            for index, name in enumerate(node.input):
                self._readers[name].append((node, index))
        # What depends on the image: an Add of anything else is a bias, however it is made.
        self._moving = {entry.name for entry in graph.graph.input}
        for node in self._nodes:
            if self._moving & set(node.input):
                self._moving.update(node.output)
        self.weighted = [
            node
            for node in self._nodes
            if node.op_type in _WEIGHTED
            and self._int8(node)
            and node.input[1] in self._constants
            and node.input[0] in self._moving
        ]

    def sites(self, activation: Activation) -> dict[str, list[Use]]:
        """Values that get a pair, with the inputs that read through it."""
        sites: dict[str, list[Use]] = defaultdict(list)

        def want(node: onnx.NodeProto, index: int) -> None:
            name = node.input[index]
            if (node, index) in sites[name]:
                return
            sites[name].append((node, index))
            before = self._producer.get(name)
            if before is not None and self._moves(before):
                want(before, 0)

        for node in self.weighted:
            want(node, 0)
        if activation == "uint8":
            for node in self.weighted:
                readers = self._readers[self._result(node)]
                if any(self._int8(reader) for reader, _ in readers):
                    for reader in readers:
                        want(*reader)
        results = {node.output[0] for node in self.weighted}
        for node in self._nodes:
            residual = node.op_type == "Add" and self._moving.issuperset(node.input)
            if residual and self._int8(node) and (results | set(sites)) & set(node.input):
                want(node, 0)
                want(node, 1)
        return {name: uses for name, uses in sites.items() if uses}

    def source(self, name: str) -> str:
        """The value that `name` only moves; both share one scale, so nothing is rounded twice."""
        before = self._producer.get(name)
        return self.source(before.input[0]) if before is not None and self._moves(before) else name

    def unpadded(self, name: str) -> str:
        """The value before any padding, whose channels have the same means but for the border."""
        before = self._producer.get(name)
        padded = before is not None and before.op_type == "Pad"
        return self.unpadded(before.input[0]) if before is not None and padded else name

    def non_negative(self, name: str) -> bool:
        """Whether a value cannot be below 0, by what it is made of."""
        before = self._producer.get(name)
        if before is None:
            return False
        if before.op_type in _NON_NEGATIVE or self._clips(before):
            return True
        inputs = before.input[:1] if before.op_type in _MOVES else before.input
        return before.op_type in _KEEP_SIGN and all(map(self.non_negative, inputs))

    def _int8(self, node: onnx.NodeProto) -> bool:
        return self._plan.of(region_of(node.name)) == "int8"

    def _moves(self, node: onnx.NodeProto) -> bool:
        """Whether a node of an int8 region only gives back values it was given, or zeros."""
        if node.op_type == "Pad" and np.any(self._constants.get((*node.input, "", "")[2], 0)):
            return False
        return node.op_type in _MOVES and self._int8(node)

    def _result(self, node: onnx.NodeProto) -> str:
        """What an engine can make a layer's integer kernel write: its output after a Relu."""
        readers = self._readers[node.output[0]]
        if len(readers) == 1:
            reader, _ = readers[0]
            if reader.op_type == "Relu" or self._clips(reader):
                return str(reader.output[0])
        return str(node.output[0])

    def _clips(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a Relu with an upper end, as ReLU6 is exported."""
        lower = self._constants.get((*node.input, "", "")[1])
        return node.op_type == "Clip" and lower is not None and float(lower) >= 0


@dataclass
class _Writer:
    """Makes the new nodes and their constants."""

    constants: Mapping[str, Value]
    rounded: Mapping[str, NDArray[np.int8]]
    new: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def weight(
        self, node: onnx.NodeProto, means: NDArray[np.float64]
    ) -> tuple[onnx.NodeProto, ...]:
        """The int8 weights of a layer behind a DequantizeLinear, which the layer now reads.

        A convolution's bias takes back what the rounded weights add to channels of these `means`.
        Layers that share weights (the head's windows) each get their own: they are rounded for
        what each of them reads.
        """
        values = np.asarray(self.constants[node.input[1]], np.float64)
        axis = 0 if node.op_type == "Conv" or _transposed(node) else values.ndim - 1
        scale = scales(values, axis)
        rounded = self.rounded.get(node.name, nearest(values, scale))
        if node.op_type == "Conv":
            lost = (values - rounded * scale.astype(np.float64)).sum(axis=(2, 3))  # (O, C / g)
            groups = np.repeat(
                means.reshape(-1, lost.shape[1]), len(lost) * lost.shape[1] // means.size, axis=0
            )
            self._bias(node, (lost * groups).sum(axis=1))
        label = f"{node.name}/weight"
        inputs = [
            self._constant(f"{label}/int8", rounded),
            self._constant(f"{label}/scale", scale.reshape(-1)),
            self._constant(f"{label}/zero_point", np.zeros(scale.size, np.int8)),
        ]
        node.input[1] = label
        return (helper.make_node("DequantizeLinear", inputs, [label], label, axis=axis),)

    def pair(self, name: str, uses: list[Use], coding: _Coding) -> tuple[onnx.NodeProto, ...]:
        """Q and DQ of a value, named after the first node that reads through them."""
        node, index = uses[0]
        place = f"{node.name}/" + (f"input_{index}/" if index else "")
        code = [
            self._constant(f"{place}scale", np.asarray(coding.scale)),
            self._constant(f"{place}zero_point", coding.zero),
        ]
        small, real = f"{place}quantise", f"{place}dequantise"
        for reader, at in uses:
            reader.input[at] = real
        return (
            helper.make_node("QuantizeLinear", [name, *code], [small], small),
            helper.make_node("DequantizeLinear", [small, *code], [real], real),
        )

    def _bias(self, node: onnx.NodeProto, added: NDArray[np.float64]) -> None:
        old = np.asarray(self.constants[node.input[2]] if len(node.input) > 2 else 0, np.float64)
        label = self._constant(f"{node.name}/bias", (old + added).astype(np.float32))
        node.input[:] = [*node.input[:2], label]

    def _constant(self, name: str, value: Value) -> str:
        self.new[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name


def _transposed(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
