"""Half precision by region: planned regions compute in FP16, with Casts where they begin and end.

Nodes are not judged one by one: a node computes in the precision of its region, a value keeps the
type it was made with, and whoever needs the other type gets one Cast, shared by all that need it.
So no value is cast there and back. Weights of half regions are stored as FP16; a weight that an
FP32 region reads as well is there twice. Image, score and map keep their types.

What an FP16 product inside a flow reads is clipped to what FP16 holds: anomalies reach values there
that would become infinite. Extractor and head see bounded pixels and need no clip.

A graph with Q/DQ nodes may be given. QuantizeLinear is a border itself, so it takes what it is
given, and the scales on both sides of it stay equal: all are rounded to what FP16 can hold, and
stored int8 weights follow their scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from ..errors import InputError
from . import opset
from .fold import Value, constants_of, skeleton
from .plan import Plan, region_of

_F16 = np.finfo(np.float16)
HALF_MAX, HALF_NORMAL = float(_F16.max), float(_F16.smallest_normal)
HALF_TINY = float(_F16.smallest_subnormal)
CLIP = 6e4
"""Bound of what enters an FP16 product of a flow; further below HALF_MAX than rounding goes."""

_HALF, _FLOAT, _CLIPPED = ".half", ".float", ".clipped"
"""What the names of converted values end with."""
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def to_half(
    graph: onnx.ModelProto, plan: Plan, *, floats: Literal["fp32", "fp16"] = "fp32"
) -> onnx.ModelProto:
    """The graph with its fp16 regions in FP16; a plan without any gives the graph back as it is.

    `floats` is what int8 regions compute in around their int8 products: FP16 is what TensorRT is
    fast in, FP32 what a CPU is. Raises InputError for a graph that has FP16 in it already.
    """
    wanted = {"fp16"} if floats == "fp32" else {"fp16", "int8"}
    low = {region for region, precision in plan.regions.items() if precision in wanted}
    if not low & {region_of(node.name) for node in graph.graph.node}:
        return graph
    return _Halving(graph, low).result()


@dataclass(frozen=True)
class Rounding:
    """What FP16 did to the weights of one region."""

    region: str
    values: int
    clipped: int
    """Beyond the largest FP16 number, stored as that number."""
    subnormal: int
    """So small that FP16 holds them with fewer digits."""
    zeroed: int
    """Smaller still: stored as 0."""


def rounding(before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[Rounding, ...]:
    """What `to_half` did to the weights, by region in graph order."""
    weights, regions = constants_of(before), dict[str, str]()
    for node in after.graph.node:
        for name in node.input:
            if name.endswith(_HALF) and name.removesuffix(_HALF) in weights:
                regions.setdefault(name.removesuffix(_HALF), region_of(node.name))
    found = []
    for region in dict.fromkeys(regions.values()):
        size = np.concatenate(
            [np.abs(weights[name]).ravel() for name in regions if regions[name] == region]
        )
        zeroed = (size > 0) & (size.astype(np.float16) == 0)
        found.append(
            Rounding(
                region,
                size.size,
                int((size > HALF_MAX).sum()),
                int(((size > 0) & (size < HALF_NORMAL) & ~zeroed).sum()),
                int(zeroed.sum()),
            )
        )
    return tuple(found)


class _Halving:
    """One graph on its way: its new nodes and weights, and which values are FP16 by now."""

    def __init__(self, model: onnx.ModelProto, low: set[str]) -> None:
        self._model = model
        self._low = low
        self._constants = constants_of(model)
        self._floats = _float_values(model, self._constants)
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[str, Value] = {}
        self._halves: set[str] = set()
        self._casts: dict[str, str] = {}
        self._quantised = any(node.op_type in _QDQ for node in model.graph.node)

    def result(self) -> onnx.ModelProto:
        if self._quantised:
            self._round_scales()
        for node in self._model.graph.node:
            self._add(node)
        used = {name for node in self._nodes for name in node.input}
        weights = {**self._constants, **self._made}
        source = self._model.graph
        made = helper.make_model(
            helper.make_graph(self._nodes, source.name, source.input, source.output),
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
            producer_name=self._model.producer_name,
        )
        made.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in weights.items()
            if name in used
        )
        if self._quantised:
            opset.to_typed(made)
        return made

    def _add(self, node: onnx.NodeProto) -> None:
        half = region_of(node.name) in self._low
        if node.op_type == "QuantizeLinear":
            half = node.input[0] in self._halves
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self._floats and _follows(node, index):
                changed.input[index] = self._typed(name, half, node, index)
        if half:
            for attribute in changed.attribute:
                if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
            self._halves.update(name for name in node.output if name in self._floats)
        self._nodes.append(changed)

    def _typed(self, name: str, half: bool, node: onnx.NodeProto, index: int) -> str:
        """The name under which the value has the type asked for; made where there is none yet."""
        if name in self._constants:
            if half and name + _HALF not in self._made:
                value = np.clip(self._constants[name], -HALF_MAX, HALF_MAX).astype(np.float16)
                self._made[name + _HALF] = value
            return name + _HALF if half else name
        if (name in self._halves) == half:
            return name
        if name not in self._casts:
            flow = half and region_of(node.name).startswith("level")
            source = self._clip(name, node, index) if flow else name
            self._casts[name] = name + (_HALF if half else _FLOAT)
            kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            self._nodes.append(
                helper.make_node(
                    "Cast", [source], [self._casts[name]], f"{node.name}/cast_{index}", to=kind
                )
            )
        return self._casts[name]

    def _clip(self, name: str, node: onnx.NodeProto, index: int) -> str:
        self._made.update(half_low=np.asarray(-CLIP, "f4"), half_high=np.asarray(CLIP, "f4"))
        clipped = name + _CLIPPED
        bounds = ["half_low", "half_high"]
        self._nodes.append(
            helper.make_node("Clip", [name, *bounds], [clipped], f"{node.name}/clip_{index}")
        )
        return clipped

    def _round_scales(self) -> None:
        """Every scale becomes the FP16 number next to it, above zero; int8 weights follow it."""
        changed: dict[str, Value] = {}
        for node in self._model.graph.node:
            if node.op_type not in _QDQ:
                continue
            if node.input[1] not in self._constants:
                raise InputError(
                    f"exported graph: {node.op_type} {node.name!r} computes its scale; quantise "
                    "with constant scales"
                )
            scale = np.asarray(self._constants[node.input[1]], np.float32)
            rounded = np.clip(scale, HALF_TINY, HALF_MAX).astype(np.float16).astype(np.float32)
            changed[node.input[1]] = np.asarray(rounded)
            if (weight := self._constants.get(node.input[0])) is not None:
                changed[node.input[0]] = _rescaled(weight, scale / rounded, node)
        self._constants.update(changed)


def _rescaled(weight: Value, ratio: NDArray[np.float32], node: onnx.NodeProto) -> Value:
    """int8 weights (zero point 0) that mean the same at a scale `ratio` times smaller."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [-1 if ratio.ndim and i == axis else 1 for i in range(weight.ndim)]
    moved = np.rint(np.asarray(weight, np.float32) * ratio.reshape(shape))
    return np.asarray(np.clip(moved, -127, 127).astype(np.int8))


def _float_values(model: onnx.ModelProto, constants: dict[str, Value]) -> set[str]:
    """Names of the FP32 values and constants."""
    bare = skeleton(model, model.graph.node, constants)
    inferred = shape_inference.infer_shapes(bare, strict_mode=True).graph
    infos = [*inferred.input, *inferred.value_info, *inferred.output]
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    types.update({tensor.name: tensor.data_type for tensor in inferred.initializer})
    if TensorProto.FLOAT16 in types.values():
        raise InputError("exported graph: has FP16 values already; give the FP32 graph")
    return {name for name, kind in types.items() if kind == TensorProto.FLOAT}


def _follows(node: onnx.NodeProto, index: int) -> bool:
    """Whether this input has the node's own float type, unlike the scales of Resize."""
    formal = defs.get_schema(node.op_type, opset.TYPED).inputs
    return formal[min(index, len(formal) - 1)].type_str != "tensor(float)"
