"""The folder a run is written to: what may be begun there, and what may be continued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import schema
from ..config import RunConfig
from ..errors import ConfigError, DataError, InputError
from ..run import MODEL, RECORD, DataRecord, Run, open_run

RESULT_FREE = ("workers",)
"""Fields of `optim` that may differ when a run is resumed: they do not change its numbers."""


def claim(out: Path, resume: bool) -> Run | None:
    """Make `out` ready for training; the run to continue, None where a new one begins.

    A run that was stopped before its record was written begins anew. Raises InputError rather than
    overwrite a run or write among foreign files.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the run")
    if (out / RECORD).is_file():
        run = open_run(out)
        if not resume:
            state = "a finished" if run.record.progress.finished else "an unfinished"
            raise InputError(
                f"{out} already holds {state} run; continue it with --resume, or give another --out"
            )
        _sweep(out)
        return run
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        _sweep(out)
    foreign = [p.name for p in out.iterdir() if not (resume and p.name == MODEL)]
    if foreign:
        raise InputError(
            f"{out} holds files but no run ({', '.join(sorted(foreign)[:3])}); "
            "give an empty or new folder as --out"
        )
    return None


def require_begun(out: Path) -> None:
    """InputError where no training ever wrote into `out`: it would begin one, not continue it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        raise InputError(
            f"{out}: no run to resume there; the name is another, or it was stopped before there "
            "was anything to keep: begin a run without --resume"
        )


@contextmanager
def given_back(out: Path) -> Iterator[None]:
    """Remove a folder that the block made, if it fails before anything was written to it."""
    found = out.exists()
    try:
        yield
    except BaseException:
        if not found:
            with suppress(OSError):  # only an empty folder goes
                out.rmdir()
        raise


def continued_config(given: RunConfig | None, run: Run) -> RunConfig:
    """The configuration to continue with; ConfigError names the fields that differ."""
    stored = run.config
    if given is None:
        return stored
    differing = [
        f"{name} = {now!r} (the run has {was!r})"
        for name, was, now in _differences(schema.dump(stored), schema.dump(given), "")
        if name not in {f"optim.{field}" for field in RESULT_FREE}
        # Another method has other fields and defaults: that it is another one says it all.
        and (given.method == stored.method or name == "model.method")
    ]
    if differing:
        raise ConfigError(
            f"cannot continue {run.path} with {'; '.join(differing)}; "
            "give the same configuration, or none, or another --out"
        )
    return given


def require_same_data(record: DataRecord, run: Run) -> None:
    """Refuse to continue with other images than the run began with, naming a few of them."""
    stored = run.record.data
    if record.fingerprint == stored.fingerprint:
        return
    changes = []
    for role in sorted({*stored.roles, *record.roles}):
        was, now = dict(stored.roles.get(role, ())), dict(record.roles.get(role, ()))
        for verb, names in (
            ("missing", was.keys() - now.keys()),
            ("new", now.keys() - was.keys()),
            ("changed", {n for n in was.keys() & now.keys() if was[n] != now[n]}),
        ):
            if names:
                changes.append(f"{len(names)} {verb} in {role} ({min(names)})")
    raise DataError(
        f"cannot continue {run.path}: the images are not those it began with: "
        f"{', '.join(changes)}; restore them, or give another --out"
    )


def _differences(was: object, now: object, name: str) -> list[tuple[str, object, object]]:
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [*was, *(k for k in now if k not in was)]
        inner = (_differences(was.get(k), now.get(k), f"{name}.{k}".lstrip(".")) for k in keys)
        return [difference for found in inner for difference in found]
    return [] if was == now else [(name, was, now)]


def _sweep(out: Path) -> None:
    """Remove the half-written files that a killed process left."""
    for part in out.glob(".*.partial"):
        part.unlink()
