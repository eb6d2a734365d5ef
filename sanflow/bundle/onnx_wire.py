"""Reads an ONNX file's protobuf wire format just far enough to know it is self-contained.

ONNX tensors may say "my data is in that file over there", and parsers have followed such paths out
of the model's folder (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34447). So external
data is found and refused here, before any parser sees the bytes. The scan is strict: only the
fields that `sanflow export` writes may occur at all. That leaves no place where a tensor could hide
(subgraphs, functions, sparse tensors, training graphs), so recursion is bounded by the table
below, and embedded engine settings (metadata_props) and custom operator domains are refused too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class _Message:
    name: str
    plain: frozenset[int]
    """Known fields that hold no tensor."""
    nested: dict[int, _Message]
    refused: dict[int, str]
    """Fields that deserve their own reason; any other unknown field is refused by number."""


_TENSOR = _Message(
    "tensor",
    frozenset({1, 2, 4, 5, 6, 7, 8, 9, 10, 11}),
    {},
    {13: "keeps its data in an external file", 14: "declares an external data location"},
)
_ATTRIBUTE = _Message(
    "attribute",
    frozenset({1, 2, 3, 4, 7, 8, 9, 20}),
    {5: _TENSOR, 10: _TENSOR},
    {
        6: "holds a subgraph",
        11: "holds subgraphs",
        22: "holds a sparse tensor",
        23: "holds sparse tensors",
    },
)
_NODE = _Message(
    "node", frozenset({1, 2, 3, 4}), {5: _ATTRIBUTE}, {7: "uses a custom operator domain"}
)
_OPSET = _Message("opset", frozenset({2}), {}, {1: "imports a custom operator domain"})
_GRAPH = _Message(
    "graph",
    frozenset({2, 10, 11, 12, 13}),
    {1: _NODE, 5: _TENSOR},
    {15: "holds sparse tensors"},
)
_MODEL = _Message(
    "model",
    frozenset({1, 2, 3, 5}),
    {7: _GRAPH, 8: _OPSET},
    {14: "carries metadata", 20: "carries a training graph", 25: "carries functions"},
)
# A default value need not be written; a writer that spells out the empty domain or the location
# "inside this file" means the same as one that omits it.
_HARMLESS = {("node", 7): b"", ("opset", 1): b"", ("tensor", 14): 0}


def problem(data: bytes) -> str | None:
    """Why these bytes are not a self-contained ONNX model, or None."""
    try:
        graphs = _walk(memoryview(data), _MODEL)
    except _Refused as refusal:
        return str(refusal)
    return None if graphs else "it holds no graph"


class _Refused(Exception):
    pass


def _walk(data: memoryview, message: _Message) -> int:
    """Check every field of one message; return how many nested messages it held."""
    nested = 0
    for field, value in fields(data, message.name):
        if field in message.refused:
            plain = bytes(value) if isinstance(value, memoryview) else value
            if (message.name, field) in _HARMLESS and plain == _HARMLESS[message.name, field]:
                continue
            raise _Refused(f"a {message.name} {message.refused[field]}")
        if field in message.nested:
            if not isinstance(value, memoryview):
                raise _Refused(f"field {field} of a {message.name} has the wrong wire type")
            _walk(value, message.nested[field])
            nested += 1
        elif field not in message.plain:
            raise _Refused(f"field {field} of a {message.name} is unknown here")
    return nested


def fields(data: memoryview, name: str) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of one message; `name` is for the error, which is private."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, name)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at, name)
            yield field, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at, name)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _Refused(f"a {name} has a field of the unknown wire type {kind}")
        if length > len(data) - at:
            raise _Refused(f"a {name} is cut short")
        yield field, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int, name: str) -> tuple[int, int]:
    """One variable-length integer and where it ends.

    Parsers differ in how they cut a spelling that is longer than needed, so it is refused.
    """
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise _Refused(f"a {name} is cut short")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index:
                raise _Refused(f"a {name} holds a number with needless bytes")
            return value, at + index + 1
    raise _Refused(f"a {name} holds a number longer than 64 bits")
