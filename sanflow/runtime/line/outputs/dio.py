"""Digital lines: one pulse per verdict, a level for ready, one that changes with each judged part.

No pulse is a reject, so whatever fails here can only reject. The one thing that must not fail is to
switch the OK line off again: that is tried until it works, and the gate should act on the edge.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from ..output import Output, OutputError, Picture, StationState
from ..result import PartResult
from . import Site
from .lines import Lines, open_lines
from .options import DioOptions

AGAIN = 0.05
"""Seconds until a line that could not be switched off, or a device, is tried again."""


class DioOutput(Output):
    """The lines of one device."""

    fast = True

    def __init__(self, options: DioOptions, site: Site) -> None:
        super().__init__(options.name)
        self._options = options
        self._verdicts: queue.SimpleQueue[tuple[float, PartResult] | None] = queue.SimpleQueue()
        self._ready = False
        self._shown: bool | None = None
        self._beat = False
        self._lines: Lines | None = None
        self._counts = {"ok": 0, "ng": 0, "left_out": 0}
        self._error = ""
        self._stopping = False
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Take the lines; OutputError if there are none. A remote module may come later."""
        try:
            self._connect()
        except OSError as error:
            self._error = str(error)
        self._thread = threading.Thread(target=self._work, name="sanflow-dio", daemon=True)
        self._thread.start()

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        """Have it pulsed."""
        self._verdicts.put((time.monotonic(), result))

    def announce(self, state: StationState) -> None:
        """Have the ready line switched."""
        self._ready = state.trusted

    def health(self) -> dict[str, Any]:
        """Pulses by verdict, pulses left out, whether the device is there, the last error."""
        connected = self._lines is not None
        return {**self._counts, "connected": connected, "error": self._error}

    def close(self) -> None:
        """Pulse what is not too late, switch everything off, let go."""
        if self._thread is not None:
            self._stopping = True
            self._ready = False
            self._verdicts.put(None)
            self._thread.join(2.0)
            self._thread = None

    def _work(self) -> None:
        while not self._stopping or not self._verdicts.empty():
            self._show_ready()
            try:
                job = self._verdicts.get(timeout=AGAIN)
            except queue.Empty:
                continue
            if job is not None:
                self._pulse(*job)
        self._show_ready()
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _pulse(self, given: float, result: PartResult) -> None:
        options = self._options
        ok = result.verdict == "OK"
        line = options.ok if ok else options.ng
        if time.monotonic() > given + options.lag_ms / 1e3:
            self._counts["left_out"] += 1
            self._error = "pulses are left out: verdicts come faster than pulses"
            return
        if options.heartbeat is not None and result.score is not None:
            self._beat = not self._beat
            self._switch(options.heartbeat, self._beat)
        if line is None:
            return
        if not self._switch(line, True):
            self._counts["left_out"] += 1
            # It may be on all the same: an answer that was lost is an error, too.
        else:
            self._counts["ok" if ok else "ng"] += 1
            time.sleep(options.pulse_ms / 1e3)
        while not self._switch(line, False) and not self._stopping:
            time.sleep(AGAIN)
        time.sleep(options.gap_ms / 1e3)

    def _show_ready(self) -> None:
        wanted, line = self._ready, self._options.ready
        if wanted != self._shown and (line is None or self._switch(line, wanted)):
            self._shown = wanted

    def _switch(self, line: int, on: bool) -> bool:
        """Whether it was switched; a device that was lost is opened again, which is all off."""
        try:
            if self._lines is None:
                self._connect()
            assert self._lines is not None
            self._lines.set(line, on)
        except (OSError, OutputError) as error:
            self._error = str(error)
            if self._lines is not None:
                self._lines.close()
                self._lines = None
            return False
        self._error = ""
        return True

    def _connect(self) -> None:
        options = self._options
        numbers = (options.ok, options.ng, options.ready, options.heartbeat)
        self._lines = open_lines(options.device, [n for n in numbers if n is not None])
        self._shown = False
