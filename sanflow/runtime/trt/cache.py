"""Where plans lie, `$XDG_CACHE_HOME/sanflow/trt/<key>/`, and when one is trusted.

A plan holds native code, so it is used only from this user's private folder, only if its bytes have
the checksum that was written when they were built, and only for the key it was built for. What is
not so is said, removed and built again. `meta.json` is written last: a plan without it is half one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout

from ... import schema
from ...errors import ConfigError, EngineError
from .. import private
from .key import PlanKey

SCHEMA: Final = "sanflow.plan/1"
PLAN, META, LOG = "plan", "meta.json", "build.log"
WORK = ".build-"
"""How the folder that a builder works in begins."""
MAX_PLAN = 2**32
MAX_META = 2**20
_CHECKSUM = hashlib.sha256().digest_size
_POLL_S = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proof:
    """What replaying a bundle's golden samples with the plan gave."""

    bundle: str
    """The manifest's digest: another decision needs another proof."""
    images: int
    score_error: float | None
    """Largest relative one; None where a score was not finite."""
    map_error: float | None
    flips: int
    cuda_graph: bool
    """Whether the work could be recorded as a CUDA graph."""
    failures: tuple[str, ...]
    """Empty if the plan is proven."""


@dataclass(frozen=True)
class Meta:
    """The content of meta.json."""

    schema: Literal["sanflow.plan/1"]
    key: PlanKey
    sha256: str
    bytes: int
    seconds: float
    """How long the build took."""
    workspace: int
    """Bytes that the builder was given."""
    built: str
    """UTC, ISO 8601."""
    warnings: tuple[str, ...]
    """The last of NVIDIA's warnings."""
    proof: Proof | None


@dataclass(frozen=True)
class Plan:
    """A built plan in the cache."""

    folder: Path
    meta: Meta

    def data(self) -> bytes:
        """Its bytes, hashed again on every call; EngineError if they changed."""
        found = private.read(self.folder / PLAN, MAX_PLAN)
        if hashlib.sha256(found).hexdigest() != self.meta.sha256:
            raise EngineError(
                f"{self.folder / PLAN}: its checksum is not the one it was built with: the file "
                "was altered or damaged, and is not loaded"
            )
        return found

    def with_proof(self, proof: Proof | None) -> Plan:
        """The same plan with what the goldens said, stored."""
        meta = dataclasses.replace(self.meta, proof=proof)
        private.write(self.folder / META, _dump(meta))
        return Plan(self.folder, meta)


def folder(key: PlanKey) -> Path:
    """Where a plan of this key lies."""
    return private.cache_root() / "trt" / key.digest[:32]


def find(key: PlanKey) -> Plan | None:
    """The stored plan if it can be trusted; one that cannot is said, removed, and None."""
    place = folder(key)
    try:
        if not (place / META).exists():
            return None
        private.make_folder(place)
        meta = schema.load(Meta, json.loads(private.read(place / META, MAX_META)), META)
        if meta.key != key:
            raise EngineError(f"{place / META}: belongs to another device or version")
        plan = Plan(place, meta)
        plan.data()
    except (OSError, ValueError, RecursionError, ConfigError, EngineError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        _log.warning("%s: not used, built again: %s", place, reason)
        remove(key)
        return None
    return plan


def store(
    key: PlanKey, built: Path, *, seconds: float, workspace: int, now: str, warnings: list[str]
) -> Plan:
    """Take a freshly built plan file into the cache in one atomic step."""
    place = folder(key)
    with private.staged(place / PLAN) as part:
        built.replace(part)
        data = private.read(part, MAX_PLAN)
    meta = Meta(
        schema=SCHEMA,
        key=key,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        seconds=round(seconds, 2),
        workspace=workspace,
        built=now,
        warnings=tuple(warnings[-20:]),
        proof=None,
    )
    private.write(place / META, _dump(meta))
    return Plan(place, meta)


def remove(key: PlanKey) -> None:
    """Remove a plan; what cannot be removed is left, and the next use says so."""
    place = folder(key)
    for name in (META, PLAN):  # the one that makes it valid first
        try:
            (place / name).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s: cannot be removed: %s", place / name, error.strerror or error)


@contextmanager
def locked(key: PlanKey, waiting: Callable[[], None]) -> Iterator[Path]:
    """The plan's folder, created, with every other builder of it kept out.

    `waiting` is called once if another process is building it. Raises EngineError if the folder
    cannot be this user's alone.
    """
    place = folder(key)
    try:
        # Each on the way, not only the last, may be there already and others' to write to.
        for part in (private.cache_root(), place.parent, place):
            private.make_folder(part)
    except OSError as error:
        raise EngineError(
            f"{part}: cannot keep plans there: {error.strerror or error}; give this user a "
            "folder of its own with XDG_CACHE_HOME"
        ) from None
    lock = FileLock(place / ".lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire(poll_interval=_POLL_S)
    try:
        _sweep(place)
        yield place
    finally:
        lock.release()


def timings(key: PlanKey) -> bytes:
    """The builder's timings on this device, of any graph; empty if there are none or damaged."""
    try:
        data = private.read(_timings(key), MAX_PLAN)
    except OSError:
        return b""
    checksum, content = data[:_CHECKSUM], data[_CHECKSUM:]
    return content if hashlib.sha256(content).digest() == checksum else b""


def keep_timings(key: PlanKey, content: bytes) -> None:
    """Store the builder's timings; without them the next build is only slower."""
    try:
        private.write(_timings(key), hashlib.sha256(content).digest() + content)
    except OSError as error:
        _log.warning("%s: not written: %s", _timings(key), error.strerror or error)


def _sweep(place: Path) -> None:
    """Remove what a builder left that was killed together with its parent."""
    for left in place.glob(WORK + "*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in place.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _timings(key: PlanKey) -> Path:
    return private.cache_root() / "trt" / f"timings-{key.device[:32]}"


def _dump(meta: Meta) -> bytes:
    return (json.dumps(schema.dump(meta), indent=1, allow_nan=False) + "\n").encode()
