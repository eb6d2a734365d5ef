"""The command line: each command parses, calls one function of a room, and prints what it got."""

from .app import app, main
from . import workshop, ship, line, station, study

__all__ = ["app", "line", "main", "ship", "station", "study", "workshop"]
