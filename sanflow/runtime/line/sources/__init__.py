"""Where frames come from: one scheme, one file, one lazy import each."""

from __future__ import annotations

from ..source import Source, SourceError


def open_source(uri: str) -> Source:
    """The source that a URI names, not opened yet; SourceError says what is wrong with it."""
    scheme, colon, _ = uri.partition(":")
    if scheme == "sim" and colon:
        from .sim import sim_source

        return sim_source(uri)
    raise SourceError(f"{uri}: no source has this scheme; give for example sim:noise?rate=20")
