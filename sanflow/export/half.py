"""Half precision by region: planned regions compute in FP16 or BF16, with Casts at their borders.

Nodes are not judged one by one: a node computes in the precision of its region, a value keeps the
type it was made with, and whoever needs the other type gets one Cast, shared by all that need it.
So no value is cast there and back. What only moves halves leaves them halves: an engine then joins
the Cast with the arithmetic behind it. Weights of half regions are stored as halves; a weight
that an FP32 region reads as well is there twice. Image, score and map keep their types.

What an FP16 product inside a flow reads is clipped to what FP16 holds: anomalies reach values there
that would become infinite. Extractor and head see bounded pixels and need no clip, and BF16 has the
range of FP32.

A graph with Q/DQ nodes may be given. QuantizeLinear is a border itself and takes FP16 as it takes
FP32; the scales on both sides of it stay equal: all are rounded to what FP16 can hold, and stored
int8 weights follow their scale. BF16 never stands around int8: OpenVINO computes that wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from ..errors import InputError
from . import opset
from .fold import Value, constants_of, skeleton
from .plan import MOVES, Plan, region_of, regions_of

CLIP = 6e4
"""Bound of what enters an FP16 product of a flow; further below FP16's largest than rounding."""

_HALF, _FLOAT, _CLIPPED = ".half", ".float", ".clipped"
"""What the names of converted values end with."""
_QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class _Kind:
    """One 16-bit float type."""

    onnx: int
    dtype: Any
    largest: float
    tiny: float
    """What a scale must not be below: the smallest number above zero, or a normal one."""

    def rounded(self, values: Value) -> Value:
        """The nearest numbers of this type; what is beyond the largest becomes the largest."""
        return np.asarray(np.clip(values, -self.largest, self.largest).astype(self.dtype))


_KINDS = {
    "fp16": _Kind(TensorProto.FLOAT16, np.float16, 65504.0, 2.0**-24),
    "bf16": _Kind(TensorProto.BFLOAT16, ml_dtypes.bfloat16, (2 - 2.0**-7) * 2.0**127, 2.0**-126),
}


def to_half(
    graph: onnx.ModelProto, plan: Plan, *, floats: Literal["fp32", "fp16"] = "fp32"
) -> onnx.ModelProto:
    """The graph with its fp16 or bf16 regions in that type; without any it comes back as it is.

    `floats` is what int8 regions compute in around their int8 products: FP16 is what TensorRT is
    fast in, FP32 what a CPU is. A graph with BF16 is for OpenVINO only. Raises InputError for two
    half types in one plan, and for a graph that has halves already.
    """
    chosen = {region: plan.of(region) for region in regions_of(graph)}
    low: dict[str, str] = {region: p for region, p in chosen.items() if p in ("fp16", "bf16")}
    if floats != "fp32":
        low |= {region: floats for region, p in chosen.items() if p == "int8"}
    if not low:
        return graph
    kinds = set(low.values())
    if len(kinds) > 1:
        raise InputError(
            "exported graph: int8 regions around fp16 beside bf16 regions; use one half type in a "
            "graph"
        )
    return _Halving(graph, set(low), kinds.pop()).result()


class _Halving:
    """One graph on its way: its new nodes and weights, and which values are halves by now."""

    def __init__(self, model: onnx.ModelProto, low: set[str], precision: str) -> None:
        self._model = model
        self._low = low
        self._kind = _KINDS[precision]
        self._fp16 = precision == "fp16"
        self._constants = constants_of(model)
        self._floats = _float_values(model, self._constants)
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[str, Value] = {}
        self._halves: set[str] = set()
        self._casts: dict[str, str] = {}
        self._half_codes = False

    def result(self) -> onnx.ModelProto:
        if self._fp16:
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
        if not self._fp16:
            opset.raise_opset(made, opset.BFLOAT)
        elif self._half_codes:
            opset.raise_opset(made, opset.HALF_QDQ)
        return made

    def _add(self, node: onnx.NodeProto) -> None:
        half = region_of(node.name) in self._low
        if node.op_type in MOVES:
            half |= node.input[0] in self._halves
        elif node.op_type == "QuantizeLinear":
            half = node.input[0] in self._halves and self._fp16
        elif node.op_type == "DequantizeLinear":
            half &= self._fp16
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self._floats and _follows(node, index):
                changed.input[index] = self._typed(name, half, node, index)
        if half:
            self._half_codes |= node.op_type in _QDQ
            for attribute in changed.attribute:
                if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                    attribute.i = self._kind.onnx
            self._halves.update(name for name in node.output if name in self._floats)
        self._nodes.append(changed)

    def _typed(self, name: str, half: bool, node: onnx.NodeProto, index: int) -> str:
        """The name under which the value has the type asked for; made where there is none yet."""
        if name in self._constants:
            if half and name + _HALF not in self._made:
                self._made[name + _HALF] = self._kind.rounded(self._constants[name])
            return name + _HALF if half else name
        if (name in self._halves) == half:
            return name
        if name not in self._casts:
            clip = half and self._fp16 and region_of(node.name).startswith("level")
            source = self._clip(name, node, index) if clip else name
            self._casts[name] = name + (_HALF if half else _FLOAT)
            kind = self._kind.onnx if half else TensorProto.FLOAT
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
        """Every scale becomes the half next to it, above zero; int8 weights follow it."""
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
            rounded = self._kind.rounded(np.maximum(scale, self._kind.tiny)).astype(np.float32)
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
    if {TensorProto.FLOAT16, TensorProto.BFLOAT16} & set(types.values()):
        raise InputError("exported graph: has halves already; give the FP32 or Q/DQ graph")
    return {name for name, kind in types.items() if kind == TensorProto.FLOAT}


def _follows(node: onnx.NodeProto, index: int) -> bool:
    """Whether this input has the node's own float type, unlike the scales of Resize."""
    formal = defs.get_schema(node.op_type, opset.HALF_QDQ).inputs
    return formal[min(index, len(formal) - 1)].type_str != "tensor(float)"
