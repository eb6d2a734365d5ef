"""What TensorRT refuses or misreads in a graph, as far as the bytes tell without the onnx package.

Export has looked closer. This finds what a graph made or changed by hand brings in, where the
builder's own message would name only a place in its code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...bundle.onnx_wire import fields

OPSETS: Final = range(13, 20)
"""What the parsers of TensorRT 10.3 to 11 read, and onnxruntime and OpenVINO with them."""
MOST_OF_TOPK: Final = 3840
_REFUSED = ("NonZero", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_INT8, _INT32 = 3, 6
_NOTHING: Final = memoryview(b"")
"""A name that is left out."""
_DTYPES: Final = {1: "<f4", 2: "u1", _INT8: "i1", _INT32: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}


@dataclass(frozen=True)
class Node:
    """One operator."""

    op: str
    name: str
    inputs: tuple[str, ...]
    numbers: Mapping[str, int]
    """Its attributes that are one whole number."""

    def __str__(self) -> str:
        return f"{self.op} {self.name}".strip()


@dataclass(frozen=True)
class Constant:
    """One stored tensor."""

    dtype: int
    """Its ONNX type."""
    values: NDArray[Any]


@dataclass(frozen=True)
class Graph:
    """What an ONNX file holds."""

    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]


def read(data: bytes) -> Graph:
    """The graph of an ONNX file that `bundle.onnx_wire` has found to be self-contained."""
    opset, nodes, constants = 0, [], {}
    for field, value in fields(memoryview(data), "model"):
        if field == 8:
            opset = max((v for f, v in _parts(value) if f == 2 and isinstance(v, int)), default=0)
        elif field == 7:
            for part, inner in _parts(value):
                if part == 1:
                    nodes.append(_node(inner))
                elif part == 5:
                    name, constant = _constant(inner)
                    constants[name] = constant
    return Graph(opset, tuple(nodes), constants)


def problems(graph: Graph, tensorrt: bool) -> Iterator[str]:
    """Each names the node and the reason; with `tensorrt` also what only TensorRT does not take."""
    if graph.opset not in OPSETS:
        yield f"opset {graph.opset}, expected {OPSETS[0]} to {OPSETS[-1]}"
    for name, constant in graph.constants.items():
        if constant.values.dtype.kind == "f" and not np.isfinite(constant.values).all():
            yield f"{name}: not all of its values are finite"
    if tensorrt:
        for node in graph.nodes:
            yield from _RULES.get(node.op, _no_rule)(node, graph.constants)


def _no_rule(node: Node, constants: Mapping[str, Constant]) -> Iterator[str]:
    if node.op in _REFUSED or node.op.startswith("QLinear"):
        yield f"{node}: TensorRT does not know this operator"


def _top_k(node: Node, constants: Mapping[str, Constant]) -> Iterator[str]:
    count = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if count is None or (count.values > MOST_OF_TOPK).any():
        yield f"{node}: K must be a constant of at most {MOST_OF_TOPK}"


def _resize(node: Node, constants: Mapping[str, Constant]) -> Iterator[str]:
    if node.numbers.get("antialias"):
        yield f"{node}: TensorRT resizes without antialiasing"


def _quantise(node: Node, constants: Mapping[str, Constant]) -> Iterator[str]:
    given: list[Constant | None] = [constants.get(name) for name in node.inputs]
    scale, zero = [*given, None, None][1:3]
    if scale is None or not (np.isfinite(scale.values) & (scale.values > 0)).all():
        yield f"{node}: its scale must be a constant above 0"
    # Without one ONNX means uint8 and TensorRT int8; a uint8 one it reads as int8, without a word.
    if zero is None or zero.dtype != _INT8:
        yield f"{node}: its zero point must be a constant of int8, TensorRT reads no other type"
    elif zero.values.any():
        yield f"{node}: its zero point must be 0"
    if node.op == "DequantizeLinear" and given[0] is not None and given[0].dtype == _INT32:
        yield f"{node}: TensorRT dequantises no int32"


_RULES: Final[dict[str, Callable[[Node, Mapping[str, Constant]], Iterator[str]]]] = {
    "TopK": _top_k,
    "Resize": _resize,
    "QuantizeLinear": _quantise,
    "DequantizeLinear": _quantise,
}


def _node(data: memoryview | int) -> Node:
    inputs: list[str] = []
    op = name = ""
    numbers: dict[str, int] = {}
    for field, value in _parts(data):
        if field == 1:
            inputs.append(_text(value))
        elif field == 3:
            name = _text(value)
        elif field == 4:
            op = _text(value)
        elif field == 5:
            attribute = dict(_parts(value))
            if isinstance(number := attribute.get(3), int):
                numbers[_text(attribute.get(1, _NOTHING))] = number
    return Node(op, name, tuple(inputs), numbers)


def _constant(data: memoryview | int) -> tuple[str, Constant]:
    """Name and values; without values where they are not stored as raw bytes of a known type."""
    parts = dict(_parts(data))
    kind = parts.get(2)
    dtype = kind if isinstance(kind, int) else 0
    raw = parts.get(9)
    if isinstance(raw, memoryview) and dtype in _DTYPES:
        values: NDArray[Any] = np.frombuffer(raw, _DTYPES[dtype])
    else:
        values = np.zeros(0)
    return _text(parts.get(8, _NOTHING)), Constant(dtype, values)


def _parts(data: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    assert isinstance(data, memoryview)
    return fields(data, "part")


def _text(data: memoryview | int) -> str:
    assert isinstance(data, memoryview)
    return bytes(data).decode("utf-8", "replace")
