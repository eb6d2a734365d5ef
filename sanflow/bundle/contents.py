"""What the files of a bundle must look like before any parser or decoder is given them.

The hashes say that a file is the one that was exported; these checks also hold when somebody made a
bundle by hand, hashes and all. They read headers, no pixels and no graph.
"""

from __future__ import annotations

import struct

from .manifest import MAPS, REPORT, Manifest
from .onnx_wire import problem as onnx_problem

PAGE_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
img-src data:; form-action 'none'; base-uri 'none'">
"""
"""How the report begins: a browser that reads this runs no script and fetches nothing."""


def problem(name: str, data: bytes, manifest: Manifest) -> str | None:
    """Why this file must not reach a parser, or None."""
    height, width = manifest.pixels.height, manifest.pixels.width
    if name.endswith(".onnx"):
        return onnx_problem(data)
    if name.endswith(".xml"):
        return _ir_problem(data)
    if name.endswith(".png"):
        return _png_problem(data, height, width)
    if name == MAPS:
        return _maps_problem(data, (len(manifest.golden), height, width))
    if name == REPORT:
        return _page_problem(data)
    return None


def _page_problem(data: bytes) -> str | None:
    if not data.startswith(PAGE_HEAD.encode()):
        return "it does not begin as a report does, with the policy that keeps scripts from running"
    if data.lower().count(b"http-equiv") != 1:
        return "it has directives to the browser beside that policy"
    return None


def _ir_problem(data: bytes) -> str | None:
    """Entities are the only way in which XML reaches another file; an IR has none.

    A zero byte would mean a wider encoding, in which they could hide from this look.
    """
    if not data.startswith(b"<?xml ") or b"\0" in data:
        return "it is not an XML file of single-byte text"
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        return "it declares a document type or an entity"
    return None


def _png_problem(data: bytes, height: int, width: int) -> str | None:
    """A decoder is never handed an image of an unexpected size."""
    if len(data) < 33 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return "it is not a PNG image"
    found = struct.unpack(">IIBB", data[16:26])
    if found != (width, height, 8, 2):
        return (
            f"it is {found[0]}x{found[1]} with depth {found[2]} and colour type {found[3]}, "
            f"expected {width}x{height} of 8-bit RGB (depth 8, colour type 2)"
        )
    return None


def _maps_problem(data: bytes, shape: tuple[int, int, int]) -> str | None:
    if data[:8] != b"\x93NUMPY\x01\x00" or len(data) < 10:
        return "it is not a NumPy array file of version 1.0"
    end = 10 + struct.unpack("<H", data[8:10])[0]
    header = data[10:end].rstrip().decode("ascii", "replace")
    wanted = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    if header != wanted:
        return f"its header is {header[:120]}, expected {wanted}"
    size = 4 * shape[0] * shape[1] * shape[2]
    if len(data) - end != size:
        return f"it holds {len(data) - end} bytes of values, expected {size} for {shape}"
    return None
