"""Where frames come from: one scheme, one file, one lazy import each.

A source's library is imported in its own file only, and that file only when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ....imaging import IMAGE_SUFFIXES
from ..source import Source, SourceError, Trigger
from .uri import redacted


@dataclass(frozen=True)
class SourceKind:
    """One entry of the registry; the file of a scheme has a function SCHEME_source(uri)."""

    module: str
    libraries: tuple[str, ...] = ()
    """What Python imports, where it needs something beyond the core."""
    extra: str = ""
    """The extra that installs it."""


SOURCES: dict[str, SourceKind] = {
    "sim": SourceKind("sim"),
    "folder": SourceKind("folder"),
    "video": SourceKind("video", ("av",), "video"),
    "rtsp": SourceKind("rtsp", ("av",), "video"),
    "rtsps": SourceKind("rtsp", ("av",), "video"),
    "v4l2": SourceKind("v4l2"),
    "pylon": SourceKind("pylon", ("pypylon",), "pylon"),
    "genicam": SourceKind("genicam", ("harvesters", "genicam"), "genicam"),
    "aravis": SourceKind("aravis", ("gi",), "aravis"),
}


def open_source(uri: str, trigger: Trigger = "free") -> Source:
    """The source that a URI names, not opened yet; `trigger` says what makes it expose.

    Raises SourceError for an unknown scheme, a missing library, or a source that has no software
    trigger where one is wanted; ConfigError for an option that is wrong.
    """
    scheme, colon, _ = uri.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in SOURCES:
        raise SourceError(f"{redacted(uri)}: {_advice(uri, scheme if colon else '')}")
    kind = SOURCES[scheme]
    require(scheme, *kind.libraries, extra=kind.extra)
    module = importlib.import_module(f".{kind.module}", __name__)
    source: Source = getattr(module, f"{kind.module}_source")(uri)
    if trigger == "software" and not source.can_trigger:
        raise SourceError(
            f'{source.name}: has no software trigger; set [source] trigger = "free" or "external"'
        )
    source.mode = trigger
    return source


def require(scheme: str, *libraries: str, extra: str, otherwise: str = "") -> None:
    """Raises SourceError, with what to install, if one of the libraries is not there."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            hint = otherwise and f", or {otherwise}"
            raise SourceError(
                f"{scheme}: {library} is not installed; pip install 'sanflow[{extra}]'{hint}"
            )


def _advice(uri: str, scheme: str) -> str:
    path = Path(uri)
    if len(scheme) > 1:
        near = difflib.get_close_matches(scheme, SOURCES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}:? There are " if near else "there are "
    elif (uri and path.is_dir()) or path.suffix.lower() in IMAGE_SUFFIXES:
        return f"is no URI; pictures in a folder are folder:{path if path.is_dir() else 'PATH'}"
    elif path.is_file():
        return f"is no URI; a video file is video:{path}"
    elif uri.startswith("/dev/video"):
        return f"is no URI; a camera of Video4Linux is v4l2:{uri}"
    else:
        hint = "give for example folder:PATH; there are "
    known = ", ".join(f"{name}:" for name in SOURCES)
    return f"no source has this scheme; {hint}{known}"
