"""Opening a bundle: every file is verified against the manifest, and nothing is executed.

Nothing but the manifest is parsed: every other file is hashed first and then looked at byte by
byte (contents.py). Nothing outside the manifest's list may lie in the folder.

Time of check, time of use: `Bundle.read` hashes the very bytes that it returns, on every call, and
`Bundle.copy` those that it writes. A decoder is given such bytes and an engine such a copy, never
the bundle's own path, so a file swapped after `open` is found, not used; and `open` keeps no graph
in memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import imaging
from ..errors import BundleError, ConfigError, ImageError, InputError
from . import contents
from .manifest import MAPS, FileEntry, Kind, Manifest
from .spelling import parse

MANIFEST = "manifest.json"
MAX_MANIFEST = 16 * 2**20
MAX_FILE = 2**31 - 1
"""Bytes; a protobuf message, hence an ONNX file, cannot be larger."""

_EXPORT = "export the run again"
_COPY = "copy the bundle again from where it was exported, or export the run again"


@dataclass(frozen=True)
class Golden:
    """One golden sample: input pixels, and what PyTorch said about them."""

    image: NDArray[np.uint8]  # (H, W, 3)
    score: float
    map: NDArray[np.float32]  # (H, W)
    kind: Kind


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: everything in it has been verified against its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Verify the whole folder; BundleError says which file or field is wrong, and why.

        `path` itself may be a symbolic link (a common way to switch versions); it is followed once.
        """
        try:
            return cls._verified(Path(path))
        except OSError as error:
            raise BundleError(
                f"{error.filename}: cannot be read: {error.strerror}; let this user read the "
                f"whole folder, or {_COPY}"
            ) from error

    @classmethod
    def _verified(cls, given: Path) -> Bundle:
        if not given.is_dir():
            kind = "not a bundle folder" if given.exists() else "no such folder"
            raise BundleError(f"{given}: {kind}; give the folder that export wrote")
        folder = given.resolve()
        if MANIFEST not in os.listdir(folder):
            raise BundleError(f"{given}: no {MANIFEST} inside; give the folder that export wrote")
        _require_plain(folder, MANIFEST)
        try:
            manifest = parse(_read(folder, MANIFEST, MAX_MANIFEST))
        except ConfigError as error:
            raise BundleError(f"{given}: {MANIFEST}: {error}; {_COPY}") from None
        _check_listing(folder, manifest)
        bundle = cls(folder, manifest)
        for name in manifest.files:
            why = contents.problem(name, bundle.read(name), manifest)
            if why is not None:
                raise BundleError(f"{folder}: {name}: {why}; {_EXPORT}")
        return bundle

    @property
    def pixel_path(self) -> imaging.PixelPath:
        """How a decoded image becomes this model's input."""
        return self.manifest.pixels

    @property
    def batch(self) -> int:
        """Images per inference: the first dimension of every graph."""
        return self.manifest.input.shape[0]

    def read(self, name: str) -> bytes:
        """Bytes of one listed file, hashed again on every call; BundleError if they changed."""
        data = _read(self.path, name, self._entry(name).bytes)
        self._check(name, hashlib.sha256(data).hexdigest())
        return data

    def copy(self, name: str, folder: Path) -> Path:
        """One listed file in another folder, hashed while it is written: never whole in memory.

        BundleError if it changed since the bundle was opened, OSError if it cannot be written.
        """
        size, target = self._entry(name).bytes, folder / Path(name).name
        digest = hashlib.sha256()
        with target.open("xb") as written:
            for piece in _pieces(self.path, name, size):
                digest.update(piece)
                written.write(piece)
        self._check(name, digest.hexdigest())
        return target

    def _entry(self, name: str) -> FileEntry:
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: {name!r} is not a file of this bundle")
        return self.manifest.files[name]

    def _check(self, name: str, found: str) -> None:
        stated = self._entry(name).sha256
        if found != stated:
            raise BundleError(
                f"{self.path}: {name}: sha256 is {found[:12]}..., the manifest says "
                f"{stated[:12]}...: the file was altered or damaged; {_COPY}"
            )

    def goldens(self) -> list[Golden]:
        """The golden samples, decoded."""
        maps = np.load(io.BytesIO(self.read(MAPS)), allow_pickle=False)
        return [
            Golden(_decode(self, entry.image), entry.score, maps[index], entry.kind)
            for index, entry in enumerate(self.manifest.golden)
        ]


def require_outside(bundle: str | os.PathLike[str], out: Path) -> None:
    """InputError if `out` lies in the bundle's folder, which no other file may be in."""
    if Path(bundle).resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f"{out}: lies in the bundle {os.fspath(bundle)}; choose another folder")


def _check_listing(folder: Path, manifest: Manifest) -> None:
    """The folder holds exactly the listed files, as plain files in plain folders."""
    listed = {MANIFEST, *manifest.files}
    folders = {name.rsplit("/", 1)[0] for name in listed if "/" in name}
    found: set[str] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for entry in sorted(os.scandir(folder / prefix), key=lambda e: e.name):
            name = f"{prefix}{entry.name}"
            if entry.is_symlink():
                raise BundleError(f"{folder}: {name}: is a symbolic link; {_COPY}, following links")
            if entry.is_dir(follow_symlinks=False):
                if name not in folders:
                    raise BundleError(f"{folder}: {name}/: is not in the manifest; remove it")
                waiting.append(f"{name}/")
                continue
            if name not in listed:
                raise BundleError(f"{folder}: {name}: is not in the manifest; remove it")
            _require_plain(folder, name)
            found.add(name)
    for name in sorted(listed - found):
        raise BundleError(f"{folder}: {name}: is missing; {_COPY}")


def _require_plain(folder: Path, name: str) -> None:
    mode = os.lstat(folder / name).st_mode
    if stat.S_ISLNK(mode):
        raise BundleError(f"{folder}: {name}: is a symbolic link; {_COPY}, following links")
    if not stat.S_ISREG(mode):
        raise BundleError(f"{folder}: {name}: is not a regular file; {_COPY}")


def _read(folder: Path, name: str, limit: int) -> bytes:
    """The whole file, at most `limit` bytes."""
    return b"".join(_pieces(folder, name, limit, limit))


def _pieces(folder: Path, name: str, limit: int, size: int = 2**20) -> Iterator[bytes]:
    """The file piece by piece, at most `limit` bytes; never through a final link or from a pipe."""
    if limit > MAX_FILE:
        raise BundleError(
            f"{folder}: {name}: {limit} bytes in the manifest, the limit is {MAX_FILE}; {_EXPORT}"
        )
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(folder / name, flags | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{folder}: {name}: is not a regular file; {_COPY}")
            if name == MANIFEST and status.st_size > limit:
                raise BundleError(
                    f"{folder}: {name}: {status.st_size} bytes, the limit is {limit}; {_COPY}"
                )
            if name != MANIFEST and status.st_size != limit:
                raise BundleError(
                    f"{folder}: {name}: {status.st_size} bytes, the manifest says {limit}: "
                    f"the file was altered or cut short; {_COPY}"
                )
            left = limit
            while piece := file.read(min(size, left)):
                left -= len(piece)
                yield piece
    except OSError as error:
        raise BundleError(f"{folder}: {name}: cannot be read: {error.strerror}; {_COPY}") from error


def _decode(bundle: Bundle, name: str) -> NDArray[np.uint8]:
    try:
        image = imaging.decode(bundle.read(name), name)
    except ImageError as error:
        raise BundleError(f"{bundle.path}: {name}: {error}; {_EXPORT}") from None
    return image
