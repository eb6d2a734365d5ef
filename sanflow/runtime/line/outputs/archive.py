"""The archive: every result as a row at once, pictures behind it by a thread of their own.

    archive/archive.sqlite                   results, and which pictures belong to them
    archive/pictures/2026-01-31/0000000042-part-17-score.png    what the model saw
    archive/maps/2026-01-31/0000000042-part-17-score.png        its anomaly map, grey, 16 bits

A row is never given up for a picture: when the writer lags, the disk is nearly full or the quota
is reached, pictures go.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import imaging
from ..output import Output, Picture
from ..result import PartResult
from ..whole import write_whole
from .options import ArchiveOptions
from .store import PictureRow, Store

WAITING = 32
"""Pictures that may wait to be written; each holds its pixels in memory."""
TRIM_EVERY = 1000
"""Results between two looks at what has expired."""


class ArchiveOutput(Output):
    """SQLite rows and PNG files under a quota."""

    def __init__(
        self, options: ArchiveOptions, folder: Path, forwarders: Sequence[str] = ()
    ) -> None:
        """`forwarders` are the names of the outputs that send from here."""
        super().__init__("archive")
        self._forwarders = forwarders
        self._options, self._folder = options, folder
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._counts = {"stored": 0, "pictures": 0, "pictures_dropped": 0}
        self._error = ""
        self._thread: threading.Thread | None = None
        self._store: Store | None = None
        self._bytes = 0

    def open(self) -> None:
        """Open the file and begin to write pictures; OutputError, or OSError from the disk."""
        self._store = Store(self._folder)
        for name in self._forwarders:
            self._store.forwarded(name)  # a new one begins before the first row, not behind it
        self._bytes = self._store.picture_bytes()
        self._thread = threading.Thread(target=self._work, name="sanflow-pictures", daemon=True)
        self._thread.start()

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """Keep the row, hand the picture on; OSError if the disk does not take the row."""
        assert self._store is not None
        try:
            id = self._store.add(result)
        except OSError as error:
            self._error = str(error)
            raise
        self._error = ""
        if id is None:
            return
        self._counts["stored"] += 1
        wanted = self._options.pictures
        if picture is not None and (wanted == "all" or (wanted == "ng" and result.verdict == "NG")):
            try:
                self._waiting.put_nowait(partial(self._write, self._store, id, result, picture))
            except queue.Full:
                self._drop("pictures come faster than they can be written")
        if self._counts["stored"] % TRIM_EVERY == 0:
            with contextlib.suppress(queue.Full):  # there is a next time
                self._waiting.put_nowait(partial(self._trim, self._store))

    def health(self) -> dict[str, Any]:
        """Counts since the start, bytes of all pictures, pictures waiting, the last error."""
        waiting = self._waiting.qsize()
        return {**self._counts, "bytes": self._bytes, "waiting": waiting, "error": self._error}

    def close(self) -> None:
        """Write the pictures that wait, and close."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def _drop(self, why: str) -> None:
        self._counts["pictures_dropped"] += 1
        self._error = f"a picture was not kept: {why}"

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            try:
                job()
            except Exception as error:  # a picture is lost, the next one may not be
                self._drop(str(error))

    def _write(self, store: Store, id: int, result: PartResult, picture: Picture) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < self._options.free_mb * 2**20:
            self._drop(f"{free >> 20} MB free on the disk, [archive] free_mb asks for more")
            return
        name = f"{result.created[:10]}/{id:010d}-part-{result.part}-{result.reason or 'ok'}.png"
        files = {f"pictures/{name}": imaging.encode_png(picture.image)}
        heat, low, high = None, None, None
        if picture.map is not None:
            heat, low, high = f"maps/{name}", *limits(picture.map)
            files[heat] = imaging.encode_png(to_grey16(picture.map, low, high))
        size = sum(map(len, files.values()))
        # The row comes first: a file that no row knows would never be removed.
        store.add_picture(PictureRow(id, f"pictures/{name}", heat, low, high, size))
        self._bytes += size
        for path, data in files.items():
            write_whole(self._folder / path, data)
        self._counts["pictures"] += 1
        while self._bytes > self._options.quota_mb * 2**20 and (oldest := store.pictures(1)):
            self._remove(store, oldest[0])

    def _remove(self, store: Store, row: PictureRow) -> None:
        for name in filter(None, (row.picture, row.map)):
            path = self._folder / name
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the day has other pictures
                path.parent.rmdir()
        store.drop_picture(row.id)
        self._bytes -= row.bytes

    def _trim(self, store: Store) -> None:
        """Remove what has expired, somewhat more of it than comes in meanwhile."""
        below = store.expired(self._options.keep_days, self._options.keep_results)
        while rows := store.pictures(100, below):
            for row in rows:
                self._remove(store, row)
        store.trim(below)


def limits(heat: NDArray[np.float32]) -> tuple[float, float]:
    """The least and the greatest finite value of an anomaly map; 0 and 0 without one."""
    finite = heat[np.isfinite(heat)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def to_grey16(heat: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint16]:
    """An anomaly map as grey levels: 0 is `low`, 65535 is `high`, and what is not finite."""
    scaled = (heat.astype(np.float64) - low) / max(high - low, 1e-30)
    whole = np.nan_to_num(scaled, nan=1.0, posinf=1.0, neginf=0.0)
    return np.rint(np.clip(whole, 0, 1) * 65535).astype(np.uint16)
