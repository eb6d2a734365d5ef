"""Files that belong to this user alone: caches of tuned settings and plans, graphs being loaded.

What lies in a cache is trusted later, a plan even with native code in it, so a file or folder that
somebody else owns or may write to is refused, and a link is never followed.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def cache_root() -> Path:
    """This package's folder below `$XDG_CACHE_HOME`, or ~/.cache."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification has a relative path ignored.
    base = given if given.is_absolute() else Path(os.path.expanduser("~/.cache"))
    return base / "sanflow"


@contextmanager
def scratch(size: int) -> Iterator[Path]:
    """A new folder with room for `size` bytes, gone at the end; OSError if there is none.

    In `$TMPDIR`, else /var/tmp, because /tmp may lie in memory; memory itself comes last, for a
    station has to start on a full disk, too.
    """
    usual = [os.environ.get("TMPDIR"), "/var/tmp", "/tmp", "/dev/shm"]
    places = [tempfile.gettempdir()] if os.name == "nt" else [p for p in usual if p]
    for place in places:
        if os.access(place, os.W_OK) and shutil.disk_usage(place).free >= size:
            break
    else:
        needed = f"{math.ceil(size / 2**20)} MiB"
        raise OSError(errno.ENOSPC, f"{needed} are free in none of {', '.join(places)}")
    with tempfile.TemporaryDirectory(
        prefix="sanflow-", dir=place, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def make_folder(path: Path) -> None:
    """Create the folder for this user alone; OSError if it is, or would be, somebody else's.

    Those on the way to it, too: `parents=True` would leave them to the umask, which often lets a
    group write, and whoever can write above can exchange what is below.
    """
    if not path.is_absolute():
        raise OSError(0, "this user has no home folder; set XDG_CACHE_HOME")
    for part in (*reversed(path.parents), path):
        part.mkdir(mode=0o700, exist_ok=True)
    status = os.stat(path)
    _require_own(status, stat.S_ISDIR(status.st_mode), "a folder")


def read(path: Path, limit: int) -> bytes:
    """The file, at most `limit` bytes; OSError if it is not a plain file of this user alone."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        right_kind = stat.S_ISREG(status.st_mode) and status.st_size <= limit
        _require_own(status, right_kind, "a small regular file")
        return file.read(limit)


def write(path: Path, data: bytes | memoryview) -> None:
    """Write the whole file in one atomic step, readable by this user only."""
    with staged(path) as part:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(part, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end, or is removed on an error."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _require_own(status: os.stat_result, right_kind: bool, expected: str) -> None:
    if not right_kind:
        raise OSError(0, f"not {expected}")
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & _OTHERS):
        raise OSError(0, "others may write to it")
