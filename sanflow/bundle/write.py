"""Writing a bundle, or its decisions, in one atomic step: never half a bundle."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from .. import schema
from ..errors import InputError, writing
from .folder import MANIFEST, Bundle
from .manifest import (
    LOWER,
    REPORT,
    Decision,
    FileEntry,
    Manifest,
    Target,
    graph_files,
)
from .spelling import digest, parse, serialise


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
    at any moment, `out` is what it was before or the whole new bundle, never half of one. An
    existing bundle is replaced only with `force`, and anything else that lies at `out` never.
    """
    target = Path(out).absolute()
    check_replaceable(target, force)
    stage = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        with writing(target):
            _fill(stage, draft, contents)
        yield Bundle.open(stage)
        with writing(target):
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


def with_report(staged: Bundle, page: bytes) -> Bundle:
    """Give a staged bundle its final report, written from what it measured once it was there."""
    (staged.path / REPORT).unlink()
    _write(staged.path / REPORT, page)
    entry = FileEntry(hashlib.sha256(page).hexdigest(), len(page))
    files = {**staged.manifest.files, REPORT: entry}
    manifest = _sealed(dataclasses.replace(staged.manifest, files=files))
    (staged.path / MANIFEST).unlink()
    _write(staged.path / MANIFEST, serialise(manifest))
    _sync(staged.path)
    return Bundle.open(staged.path)


def with_decisions(bundle: Bundle, decisions: Sequence[Decision]) -> Bundle:
    """Give each graph, in order, another decision: only the manifest is rewritten, in one step."""
    graphs = tuple(
        dataclasses.replace(graph, decision=decision)
        for graph, decision in zip(bundle.manifest.graphs, decisions, strict=True)
    )
    manifest = _sealed(dataclasses.replace(bundle.manifest, graphs=graphs))
    data, name = serialise(manifest), f".{bundle.path.name}.{secrets.token_hex(4)}.tmp"
    with writing(bundle.path / MANIFEST):
        try:
            # Beside the bundle, not in it: a file left by a power cut must not make it refusable.
            _replace(bundle.path.parent / name, data, bundle.path / MANIFEST)
        except OSError:  # what lies beside it is another disk, as of a container, or read-only
            _replace(bundle.path / name, data, bundle.path / MANIFEST)
        _sync(bundle.path)
    return Bundle.open(bundle.path)


def _replace(part: Path, data: bytes, target: Path) -> None:
    """Put the data in the target's place in one step, by way of the file `part`."""
    try:
        _write(part, data)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _sealed(draft: Manifest) -> Manifest:
    """The draft with its digest, as it will be read back: what cannot be is not written at all."""
    plain = schema.load(Manifest, schema.dump(draft), "manifest")  # a whole number becomes a float
    return parse(serialise(dataclasses.replace(plain, digest=digest(plain))))


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


def check_replaceable(target: Path, force: bool) -> None:
    """Raise InputError if no bundle may be written at `target`; nothing is touched."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"{target}: exists and is not a folder; choose another output")
    if not any(target.iterdir()):
        return
    if not _looks_like_bundle(target):
        raise InputError(
            f"{target}: holds files but is no bundle, so it is left alone; choose another output"
        )
    if not force:
        raise InputError(f"{target}: a bundle is there already; replace it with --force")


def _looks_like_bundle(folder: Path) -> bool:
    """A bundle, damaged perhaps: our kind of manifest, and nothing that a bundle does not have."""
    known = {MANIFEST, REPORT, "golden"}
    for target in get_args(Target):
        known.update(name for precision in LOWER for name in graph_files(target, precision))
    manifest = folder / MANIFEST
    if not {entry.name for entry in folder.iterdir()} <= known or not manifest.is_file():
        return False
    with manifest.open("rb") as file:
        return b'"sanflow.bundle/' in file.read(64)


def _move_into_place(stage: Path, target: Path, force: bool) -> None:
    check_replaceable(target, force)  # again: hours may have passed
    if not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()
        os.rename(stage, target)
    elif not _exchange(stage, target):
        # For the length of one rename there is no bundle; after it there is the new one.
        old = stage.with_suffix(".old")
        os.rename(target, old)
        try:
            os.rename(stage, target)
        except OSError:
            os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _exchange(stage: Path, target: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux); False if it cannot.

    What was at `target` is then at `stage`, and goes with it.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    done: int = renameat2(here, os.fsencode(stage), here, os.fsencode(target), exchange)
    return done == 0


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
