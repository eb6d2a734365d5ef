"""The station's hold on its slow process: started, started again when it dies, let end."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import time
from collections.abc import Callable
from typing import Any

from ..machine import child_command, child_environment

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before it is started again; doubling while it keeps dying."""
LONG_LIVED = 60.0
"""Seconds of life after which a death is a first one again."""
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""One heap for its many threads, where glibc would have one for each that grows to the largest
picture; and pictures outside of it, so that their memory goes back when they are done with."""

_log = logging.getLogger(__name__)


class SlowSide:
    """One child process at a time."""

    def __init__(self, assignment: dict[str, Any], warn: Callable[[str], None]) -> None:
        """`warn` is told why it is down, and nothing (empty) once it is up again."""
        self._assignment, self._warn = assignment, warn
        self._child: subprocess.Popen[bytes] | None = None
        self._started = self._next = 0.0
        self._wait = FIRST_WAIT
        self._down = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._child is None else self._child.pid

    def look(self) -> None:
        """Start it if it is not there, and it is time."""
        now = time.monotonic()
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                if self._down and now - self._started > LONGEST_WAIT:
                    self._down = False
                    self._warn("")
                return
            self._child = None
            if now - self._started > LONG_LIVED:
                self._wait = FIRST_WAIT
            self._next = now + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            _log.warning("the slow side ended with code %d; it is started again", code)
            self._down = True
            self._warn(f"the slow side ended with code {code}; verdicts go on, records follow")
        if now >= self._next:
            self._start(now)

    def close(self, timeout: float = 10.0) -> None:
        """Let it tell its outputs the rest, and end it after `timeout` seconds at the latest."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        with contextlib.suppress(OSError):  # it may just have died
            child.stdin.close()
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _start(self, now: float) -> None:
        command = child_command("sanflow.runtime.line.slow")
        try:
            environment = {**MALLOC, **child_environment()}
            child = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
            assert child.stdin is not None
            child.stdin.write(json.dumps(self._assignment).encode() + b"\n")
            child.stdin.flush()
        except OSError as error:
            self._next = now + self._wait
            self._down = True
            self._warn(f"the slow side cannot be started: {error}")
            return
        self._child, self._started = child, now
        self.starts += 1
