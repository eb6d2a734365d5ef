"""Which images a folder, a glob or a path names: sorted, lazily, in bounded memory.

The order is that of the names, so that two runs over one folder agree line by line. Sorting a
folder needs all of its names; with more than `WINDOW` it is listed again for the next lot instead,
so that a million images take no more memory than fifty thousand.
"""

from __future__ import annotations

import fnmatch
import glob
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import InputError
from ..imaging import IMAGE_SUFFIXES

WINDOW = 50_000
"""Names of one folder held at once."""


@dataclass(frozen=True)
class Source:
    """Where images come from: one file, or those below `base` whose path fits."""

    base: Path
    pattern: tuple[str, ...] | None
    """Glob parts relative to `base`; None takes every file with an image's suffix."""
    skip: Path | None = None
    """A folder below `base` that is not entered: where the results go."""

    def __iter__(self) -> Iterator[Path]:
        """Paths relative to `root`, sorted; hidden files, and folders behind links, left out.

        A folder that cannot be listed comes out itself, so that it is reported and not forgotten.
        """
        return self._walk(Path()) if self.base.is_dir() else iter([Path(self.base.name)])

    @property
    def root(self) -> Path:
        """The folder that the yielded paths are relative to."""
        return self.base if self.base.is_dir() else self.base.parent

    def _walk(self, inside: Path) -> Iterator[Path]:
        try:
            for name in _names(self.base / inside):
                path = inside / name
                if not os.path.isdir(self.base / path):
                    if _fits(path, self.pattern):
                        yield path
                elif self._enters(path):
                    yield from self._walk(path)
        except OSError:
            yield inside

    def _enters(self, path: Path) -> bool:
        folder = self.base / path
        if folder.is_symlink() or (self.skip is not None and folder.resolve() == self.skip):
            return False  # a link may lead back up, and the walk would never end
        return self.pattern is None or "**" in self.pattern or len(path.parts) < len(self.pattern)


def find(source: str | os.PathLike[str], skip: Path | None = None) -> Source:
    """What `source` names; InputError if that is nothing at all.

    A folder is searched with everything below it. A path that exists is that path, even if it
    holds `*` or `[`; otherwise these make it a glob, in which `**` stands for any folders.
    """
    text = os.fspath(source)
    path = Path(text)
    hidden = skip.resolve() if skip is not None else None
    if path.is_dir():
        return Source(path, None, hidden)
    if path.exists():
        return Source(path, None)
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder; give an image, a folder, or a glob")
    parts = PurePath(text).parts
    magic = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:magic])
    if not base.is_dir():
        raise InputError(f"{text}: {base} is no folder; give an image, a folder, or a glob")
    return Source(base, parts[magic:], hidden)


def _fits(path: Path, pattern: tuple[str, ...] | None) -> bool:
    if pattern is None:
        return path.suffix.lower() in IMAGE_SUFFIXES
    return _match(path.parts, pattern)


def _match(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return any(_match(names[start:], rest) for start in range(len(names)))
    return bool(names) and fnmatch.fnmatch(names[0], pattern[0]) and _match(names[1:], pattern[1:])


def _names(folder: Path) -> Iterator[str]:
    last = ""
    while True:
        with os.scandir(folder) as entries:
            found = (e.name for e in entries if e.name > last and not e.name.startswith("."))
            lot = heapq.nsmallest(WINDOW, found)
        yield from lot
        if len(lot) < WINDOW:
            return
        last = lot[-1]
