"""How the linter refuses: one message that names the node and the way out."""

from __future__ import annotations

import onnx

from ..errors import InputError


def require(condition: bool, message: str) -> None:
    """InputError unless the condition holds."""
    if not condition:
        raise InputError(f"exported graph: {message}")


def named(node: onnx.NodeProto) -> str:
    """A node as messages name it: operator and name."""
    return f"{node.op_type} {node.name!r}"
