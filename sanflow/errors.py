"""Every error a user can meet, and the exit code the command line gives it.

    SanflowError            1   anything else that stops a command
    ├── InputError          2   what was given cannot be used: a path, an option, a data set
    │   ├── ConfigError     2   a configuration or manifest field: unknown, missing or wrong
    │   ├── ImageError      2   one image cannot be decoded or has the wrong shape
    │   └── DataError       2   a data set is incomplete, overlapping, or holds bad files
    ├── BundleError         4   a bundle is refused: altered, unsafe, or not one
    ├── EngineError         5   an engine is missing, cannot load the graph, or failed while running
    ├── ParityError         6   an engine does not give PyTorch's verdicts
    ├── CalibrationError    7   the asked false-alarm bound cannot be given
    └── Interrupted       130   asked to stop by Ctrl-C or SIGTERM; what was finished is kept

Exit code 3 is not an error: `sanflow infer`, or `sanflow run` on a source that ends, finished, and
at least one image got no decision. SourceError (8) and OutputError (9) of the in-line station are
kept in its own room, `runtime/line/`.
A message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SanflowError(Exception):
    """The root: catching it catches everything this package raises on purpose."""

    exit_code = 1


class InputError(SanflowError):
    """What was given cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration or manifest field is unknown, missing, or has a wrong type or value."""


class ImageError(InputError):
    """One image cannot be decoded or has the wrong shape."""


class DataError(InputError):
    """A data set is incomplete, overlapping, or holds bad files."""


class BundleError(SanflowError):
    """A bundle is refused: altered, unsafe, or not a bundle."""

    exit_code = 4


class EngineError(SanflowError):
    """An engine is missing, cannot load the graph, or failed while running."""

    exit_code = 5


class ParityError(SanflowError):
    """An engine does not give PyTorch's verdicts."""

    exit_code = 6


class CalibrationError(SanflowError):
    """The asked false-alarm bound cannot be given with the parts at hand."""

    exit_code = 7


class Interrupted(SanflowError):
    """Asked to stop by Ctrl-C or SIGTERM; what was finished is kept."""

    exit_code = 130


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, what the system refuses, because the disk is full, say, is an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
