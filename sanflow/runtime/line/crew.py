"""The workers together: started, replaced when they do not come back, ended."""

from __future__ import annotations

import time

from .emitter import Emitter
from .swap import Judge
from .worker import Checked, Parts, Worker


class Crew:
    """`count` workers that are not stuck."""

    def __init__(self, queue: Parts, emitter: Emitter, idle: float, checked: Checked) -> None:
        """`idle` and `checked` as of Worker."""
        self._queue, self._emitter = queue, emitter
        self._idle, self._checked = idle, checked
        self._workers: list[Worker] = []
        self._left: list[Worker] = []

    def start(self, count: int) -> None:
        """Have `count` workers."""
        while len(self._workers) < count:
            worker = Worker(self._queue, self._emitter, self._idle, self._checked)
            self._workers.append(worker)
            worker.start()

    def stuck(self, limit: float) -> Judge | None:
        """Whose engine a worker has been with for more than `limit` seconds."""
        return next((w.judge for w in self._workers if _busy(w) > limit and w.judge), None)

    def leave_behind(self, judge: Judge) -> None:
        """Replace everyone who is with this engine, or waits for it."""
        count = len(self._workers)
        for worker in [worker for worker in self._workers if worker.judge is judge]:
            worker.abandon()
            self._workers.remove(worker)
            self._left.append(worker)
        self.start(count)

    @property
    def lost(self) -> int:
        """Threads that did not come back from an engine yet."""
        self._left = [worker for worker in self._left if worker.alive]
        return len(self._left)

    def older_than(self, moment: float) -> bool:
        """Whether somebody still works on what was begun before `moment`."""
        begun = [worker.since for worker in self._workers]
        return any(since is not None and since < moment for since in begun)

    def join(self, timeout: float) -> None:
        """Wait for the end of all, `timeout` seconds at most; the others are lost."""
        end = time.monotonic() + timeout
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        self._left += self._workers
        self._workers = []


def _busy(worker: Worker) -> float:
    since = worker.since
    return 0.0 if since is None else time.monotonic() - since
