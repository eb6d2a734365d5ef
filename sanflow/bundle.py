"""The deployable artefact: a folder with one graph, golden samples, and a manifest over all of it.

    BUNDLE/manifest.json            what everything is, with the sha256 of every file (manifest.py)
    BUNDLE/model.onnx               target onnx;  model.xml and model.bin for target openvino
    BUNDLE/golden/000.png ...       model input pixels, 8-bit RGB
    BUNDLE/golden/maps.npy          PyTorch's anomaly maps of them, float32 (N, H, W)

Opening executes nothing and parses nothing but the manifest: every other file is hashed first and
then looked at byte by byte. Nothing outside the manifest's list may lie in the folder.

Time of check, time of use: `Bundle.read` hashes the very bytes that it returns, on every call. An
engine or decoder is given those bytes, never a path, so a file swapped after `open` is found, not
used; and `open` keeps no graph in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import secrets
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import imaging, onnx_wire
from .errors import BundleError, ConfigError, ImageError
from .manifest import GRAPHS, MAPS, Decision, FileEntry, Manifest, digest, parse, serialise
from .manifest import check as check_manifest

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
    kind: Literal["good", "anomaly"]


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
        given = Path(path)
        if not given.is_dir():
            raise BundleError(f"{given}: not a bundle folder; give the folder that export wrote")
        folder = given.resolve()
        if not os.path.lexists(folder / MANIFEST):
            raise BundleError(f"{given}: no {MANIFEST} inside; give the folder that export wrote")
        _require_plain(folder, MANIFEST)
        try:
            manifest = parse(_read(folder, MANIFEST, MAX_MANIFEST))
        except ConfigError as error:
            raise BundleError(f"{given}: {MANIFEST}: {error}; {_COPY}") from None
        _check_listing(folder, manifest)
        bundle = cls(folder, manifest)
        for name in manifest.files:
            _check_content(bundle, name)
        return bundle

    @property
    def graph(self) -> Path:
        """The graph's (first) file, for messages; engines take their bytes from `read`."""
        return self.path / GRAPHS[self.manifest.target][0]

    @property
    def pixel_path(self) -> imaging.PixelPath:
        """How a decoded image becomes this model's input."""
        return self.manifest.pixels

    @property
    def batch(self) -> int:
        """Images per inference: the graph's first dimension."""
        return self.manifest.input.shape[0]

    def read(self, name: str) -> bytes:
        """Bytes of one listed file, hashed again on every call; BundleError if they changed."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: {name!r} is not a file of this bundle")
        data = _read(self.path, name, entry.bytes)
        found = hashlib.sha256(data).hexdigest()
        if found != entry.sha256:
            raise BundleError(
                f"{self.path}: {name}: sha256 is {found[:12]}..., the manifest says "
                f"{entry.sha256[:12]}...: the file was altered or damaged; {_COPY}"
            )
        return data

    def goldens(self) -> list[Golden]:
        """The golden samples, decoded."""
        maps = np.load(io.BytesIO(self.read(MAPS)), allow_pickle=False)
        return [
            Golden(_decode(self, entry.image), entry.score, maps[index], entry.kind)
            for index, entry in enumerate(self.manifest.golden)
        ]


@contextmanager
def staged_bundle(
    out: str | os.PathLike[str],
    draft: Manifest,
    contents: Mapping[str, bytes],
    *,
    force: bool = False,
) -> Iterator[Bundle]:
    """Write a bundle beside `out` and yield it opened; it takes its place when the block succeeds.

    `files` and `digest` of the draft are filled in here. If the block raises, or the machine stops
    at any moment, `out` is what it was before: never half a bundle. An existing bundle is replaced
    only with `force`, and anything else that lies at `out` never.
    """
    target = Path(out).absolute()
    _check_replaceable(target, force)
    stage = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        with _os_errors(target):
            _fill(stage, draft, contents)
        yield Bundle.open(stage)
        with _os_errors(target):
            _move_into_place(stage, target, force)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_bundle(
    out: str | os.PathLike[str],
    draft: Manifest,
    contents: Mapping[str, bytes],
    *,
    force: bool = False,
) -> Bundle:
    """Write a bundle folder atomically and open it; see `staged_bundle`."""
    with staged_bundle(out, draft, contents, force=force):
        pass
    return Bundle.open(out)


def with_decision(bundle: Bundle, decision: Decision) -> Bundle:
    """Give the bundle another decision: only the manifest is rewritten, in one atomic step."""
    manifest = _sealed(dataclasses.replace(bundle.manifest, decision=decision))
    # Beside the bundle, not in it: a file left by a power cut must not make it refusable.
    part = bundle.path.parent / f".{bundle.path.name}.{secrets.token_hex(4)}.tmp"
    with _os_errors(bundle.path / MANIFEST):
        try:
            _write(part, serialise(manifest))
            os.replace(part, bundle.path / MANIFEST)
        finally:
            part.unlink(missing_ok=True)
        _sync(bundle.path)
    return Bundle.open(bundle.path)


def _sealed(draft: Manifest) -> Manifest:
    check_manifest(draft)
    return dataclasses.replace(draft, digest=digest(draft))


def _fill(stage: Path, draft: Manifest, contents: Mapping[str, bytes]) -> None:
    files = {
        name: FileEntry(hashlib.sha256(data).hexdigest(), len(data))
        for name, data in contents.items()
    }
    manifest = _sealed(dataclasses.replace(draft, files=files))
    stage.parent.mkdir(parents=True, exist_ok=True)
    stage.mkdir()
    for name, data in {**contents, MANIFEST: serialise(manifest)}.items():
        (stage / name).parent.mkdir(exist_ok=True)
        _write(stage / name, data)
    for folder in {(stage / name).parent for name in contents} | {stage}:
        _sync(folder)


@contextmanager
def _os_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{target}: cannot be written: {error}") from error


def _check_replaceable(target: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise BundleError(f"{target}: exists and is not a folder; choose another output")
    if not any(target.iterdir()):
        return
    if not _looks_like_bundle(target):
        raise BundleError(
            f"{target}: holds files but is no bundle, so it is left alone; choose another output"
        )
    if not force:
        raise BundleError(f"{target}: a bundle is there already; replace it with --force")


def _looks_like_bundle(folder: Path) -> bool:
    """A bundle, or the remains of one: its manifest, and nothing that a bundle does not have."""
    known = {MANIFEST, "golden", *(name for names in GRAPHS.values() for name in names)}
    names = {entry.name for entry in folder.iterdir()}
    return MANIFEST in names and names <= known


def _move_into_place(stage: Path, target: Path, force: bool) -> None:
    _check_replaceable(target, force)  # again: hours may have passed
    if target.exists() and any(target.iterdir()):
        old = target.parent / f".{target.name}.{secrets.token_hex(4)}.old"
        os.rename(target, old)
        try:
            os.rename(stage, target)
        except OSError:
            os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        if target.exists():
            target.rmdir()
        os.rename(stage, target)
    _sync(target.parent)


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
    """The whole file, at most `limit` bytes; never through a final link, never from a pipe."""
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
            return file.read(limit)
    except OSError as error:
        raise BundleError(f"{folder}: {name}: cannot be read: {error.strerror}; {_COPY}") from error


def _check_content(bundle: Bundle, name: str) -> None:
    """Hash one file, then refuse what must not reach a parser."""
    data = bundle.read(name)
    pixels, count = bundle.manifest.pixels, len(bundle.manifest.golden)
    why: str | None = None
    if name.endswith(".onnx"):
        why = onnx_wire.problem(data)
    elif name.endswith(".xml"):
        # An IR has no document type; entities would be the only way to reach another file.
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            why = "it declares a document type or an entity"
    elif name.endswith(".png"):
        why = _png_problem(data, pixels.height, pixels.width)
    elif name == MAPS:
        why = _maps_problem(data, (count, pixels.height, pixels.width))
    if why is not None:
        raise BundleError(f"{bundle.path}: {name}: {why}; {_EXPORT}")


def _png_problem(data: bytes, height: int, width: int) -> str | None:
    """Read the header only: a decoder is never handed an image of an unexpected size."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
        return "it is not a PNG image"
    found = struct.unpack(">IIBB", data[16:26])
    if found != (width, height, 8, 2):
        return (
            f"it is {found[0]}x{found[1]} with depth {found[2]} and colour type {found[3]}, "
            f"expected {width}x{height} of 8-bit RGB (depth 8, colour type 2)"
        )
    return None


def _maps_problem(data: bytes, shape: tuple[int, int, int]) -> str | None:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        return f"it is not a NumPy array: {error}"
    if version != (1, 0) or header != (shape, False, np.dtype("<f4")):
        return f"it is an array of {header[2]} {header[0]}, expected float32 {shape}"
    if len(data) - stream.tell() != 4 * int(np.prod(shape)):
        return f"it holds {len(data) - stream.tell()} bytes of data, expected float32 {shape}"
    return None


def _decode(bundle: Bundle, name: str) -> NDArray[np.uint8]:
    try:
        image = imaging.decode(bundle.read(name), name)
    except ImageError as error:
        raise BundleError(f"{bundle.path}: {name}: {error}; {_EXPORT}") from None
    return image


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename or new file in this folder survive a power cut."""
    if os.name == "nt":  # a folder cannot be opened there; NTFS orders its own metadata
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
