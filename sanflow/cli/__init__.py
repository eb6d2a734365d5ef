"""The command line: each command parses, calls one function of a room, and prints what it got."""

from . import line, ship, workshop
from .app import app, main

__all__ = ["app", "line", "main", "ship", "workshop"]
