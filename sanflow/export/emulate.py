"""What a GPU makes of a graph with FP16 regions, computed on the CPU: every rounding, in FP32.

ONNX Runtime has no FP16 arithmetic on a CPU: it computes such nodes in FP32 and rounds where it
must, so it cannot say whether FP16 overflows or loses a verdict. Here every FP16 value is an FP32
one that is rounded to FP16 as soon as it is made: to the nearest even, to infinity beyond 65504, to
subnormals below 6e-5. What only moves values needs no rounding. Kernels that keep more digits
between two operators err less than this does.

The products that are FP32 in the graph are given what TF32 keeps of their factors, 10 bits after
the point as FP16 and the range of FP32, for that is how a GPU computes them unless told not to.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..runtime.ort import OrtEngine
from ..runtime.private import scratch
from .fold import Value, constants_of, element_types, skeleton
from .plan import MOVES

SPLIT = 2.0**13 + 1
"""x - (x SPLIT - (x SPLIT - x)) is what 11 of an FP32's 24 significant bits leave (Veltkamp)."""

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


EMULATED = "FP16 emulation"


class Emulated(OrtEngine):
    """A typed graph with the arithmetic of a GPU, in an onnxruntime session."""

    name = EMULATED

    def __init__(self, graph: bytes, threads: int) -> None:
        made = emulate(onnx.load_from_string(graph))
        data = made.SerializeToString()
        with scratch(len(data)) as folder:
            path = folder / "model.onnx"
            path.write_bytes(data)
            super().__init__(path, threads)


def emulate(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in FP32 with every FP16 and TF32 rounding written out."""
    constants = constants_of(model)
    types = element_types(skeleton(model, model.graph.node, constants))
    writer = _Writer(constants, types)
    nodes = [made for node in model.graph.node for made in writer.rewritten(node)]
    source = model.graph
    made = helper.make_model(
        helper.make_graph(nodes, source.name, source.input, source.output),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    used = {name for node in nodes for name in node.input}
    weights = {**constants, **writer.made}
    made.graph.initializer.extend(
        numpy_helper.from_array(_single(value), name)
        for name, value in weights.items()
        if name in used
    )
    return made


def tf32(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest numbers with TF32's 11 significant bits, as FP32."""
    large = values * np.float32(SPLIT)
    return np.asarray(large - (large - values), np.float32)


class _Writer:
    """The roundings of one graph: those of a value that several nodes read are made once."""

    def __init__(self, constants: dict[str, Value], types: dict[str, int]) -> None:
        self._constants = constants
        self._types = types
        self._split: dict[str, str] = {}
        self.made: dict[str, Value] = {}

    def rewritten(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        halves = [name for name in node.output if self._half(name)]
        if node.op_type == "Cast" and halves:  # the rounding itself
            changed.attribute[0].i = TensorProto.FLOAT
        if halves and node.op_type not in MOVES:
            for index, name in enumerate(node.output):
                changed.output[index] = name + ".exact" if name in halves else name
        elif node.op_type in _PRODUCTS:
            for index in (0, 1):
                yield from self._factor(changed, index)
        yield changed
        if node.op_type not in MOVES:
            for name in halves:
                yield _cast(name + ".exact", name + ".half", TensorProto.FLOAT16)
                yield _cast(name + ".half", name, TensorProto.FLOAT)

    def _factor(self, node: onnx.NodeProto, index: int) -> Iterator[onnx.NodeProto]:
        """Give a product what TF32 keeps of one of its factors."""
        name = node.input[index]
        if name not in self._split:
            self._split[name] = name + ".tf32"
            if name in self._constants:
                self.made[name + ".tf32"] = tf32(np.asarray(self._constants[name], np.float32))
            else:
                self.made["split"] = np.asarray(SPLIT, np.float32)
                large, rest = name + ".large", name + ".rest"
                yield helper.make_node("Mul", [name, "split"], [large], large)
                yield helper.make_node("Sub", [large, name], [rest], rest)
                yield helper.make_node("Sub", [large, rest], [name + ".tf32"], name + ".tf32")
        node.input[index] = self._split[name]

    def _half(self, name: str) -> bool:
        return self._types.get(name) == TensorProto.FLOAT16


def _cast(source: str, name: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [name], f"{name}/cast", to=kind)


def _single(value: Value) -> Value:
    """FP16 as FP32; other types as they are."""
    return np.asarray(value, np.float32, order="C") if value.dtype == np.float16 else value
