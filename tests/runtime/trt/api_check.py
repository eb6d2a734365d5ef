"""Finds uses of TensorRT's Python API that a version does not have, without running anything.

Two rules, over the syntax tree: a dotted chain that starts at the module (`trt.BuilderFlag.TF32`)
must exist, and an attribute of a variable that is named like one of TensorRT's objects (`builder`,
`config`, `context`, `self._engine`) must be a member of that class. A name that is also looked up
with hasattr or getattr in the same file is optional and passes.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SURFACE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "site" / "tensorrt" / "surface.json").read_text("utf-8")
)
MODULES = {"trt", "tensorrt", "tensorrt_rtx"}
# Functions of the module itself, and what only TensorRT for RTX has, guarded by the product.
ANYWHERE = {"__version__", "volume", "ComputeCapability"}
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "timing_cache": "ITimingCache",
}


def problems(source: str) -> list[str]:
    """`line: name, missing in versions` of each use that some version lacks."""
    tree = ast.parse(source)
    optional = set(_optional(tree))
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        root, names = _chain(node)
        lacking = [v for v in SURFACE if not _exists(SURFACE[v]["classes"], root, names)]
        if lacking and not set(names) & optional:
            found.append(f"{node.lineno}: {root}.{'.'.join(names)}, missing in {lacking}")
    return found


def _exists(classes: dict[str, Any], root: str, names: list[str]) -> bool:
    if root in MODULES or (root == "self" and names[0] in MODULES):
        names = names if root in MODULES else names[1:]
        if not names or names[0] in ANYWHERE:
            return True
        if names[0] not in classes:
            return False
        plain = len(names) == 1 or names[1] in ("name", "value", "__members__", "__init__")
        return plain or names[1] in _members(classes, names[0])
    if root == "self" and len(names) == 2:
        root, names = names[0].lstrip("_"), names[1:]
    if root not in OBJECTS or len(names) != 1 or names[0].startswith("__"):
        return True
    return names[0] in _members(classes, OBJECTS[root])


def _members(classes: dict[str, Any], name: str) -> set[str]:
    own = classes[name]
    found = set(own["members"]) | set(own.get("enum", {}))
    return found.union(*(_members(classes, base) for base in own["bases"] if base in classes))


def _chain(node: ast.expr) -> tuple[str, list[str]]:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else ""), names[::-1]


def _optional(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("hasattr", "getattr")
            and isinstance(node.args[1], ast.Constant)
        ):
            yield str(node.args[1].value)
