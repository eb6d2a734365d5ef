"""The engine side of the station: who judges now, who works with it, and who takes over.

A new bundle is proven beside the one that judges, and takes over between two parts; one that fails
changes nothing. An engine that does not come back is given up with its threads: until it is opened
and proven anew there is none, and every part is a reject.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ...errors import EngineError
from .config import Line, seconds
from .crew import Crew
from .emitter import Emitter
from .ledger import Entry
from .queue import PartQueue
from .state import Keeper
from .swap import Judge, Swapper

GRACE = 1.0
"""Seconds after a swap before the old engine is closed."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts to open an engine that was given up."""
MOST_LOST = 8
"""Stuck threads after which only a new process helps."""

_log = logging.getLogger(__name__)


class Judging:
    """Queue, workers and engine; `look` is to be called again and again."""

    def __init__(
        self,
        bundle: str,
        line: Line,
        prove: Callable[[str], Judge],
        queue: PartQueue[Entry, Judge | None],
        emitter: Emitter,
        keeper: Keeper,
    ) -> None:
        self.bundle = bundle
        """Path of the bundle that judges, or is to."""
        self._line, self._prove = line, prove
        self._queue, self._keeper = queue, keeper
        self._hang = seconds(line.hang)
        self._crew = Crew(queue, emitter, seconds(line.idle_check), self._checked)
        self._swapper = Swapper(prove, self._switch, self._failed)
        self._retired: list[tuple[float, Judge]] = []
        self._given_up = False
        self._retry, self._wait = 0.0, self._hang

    def open(self) -> Judge:
        """Open and prove the bundle; raises as `prove` does. It judges once `start` is called."""
        return self._prove(self.bundle)

    def start(self, judge: Judge | None) -> None:
        """Let it judge; without one every part is a reject until a swap brings one."""
        if judge is not None:
            self._switch(judge, self.bundle)
        together = 1 if judge is None else judge.engine.in_flight
        self._crew.start(self._line.workers or together + 1)

    def swap(self, bundle: str) -> None:
        """Judge with this bundle from some next part on, once it is proven."""
        self._swapper.ask(bundle)

    def look(self) -> None:
        """Give up an engine that is stuck, open it anew, begin with a swap, close old engines.

        An engine that was given up is opened anew at once, then after ever longer waits.

        Raises EngineError if that happens time after time: threads that are stuck stay.
        """
        now = time.monotonic()
        if (judge := self._crew.stuck(self._hang)) is not None:
            self._leave_behind(judge)
        if self._given_up and now >= self._retry and not self._swapper.busy:
            self._retry = now + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self._swapper.ask(self.bundle)
        self._swapper.look()
        for moment, judge in list(self._retired):
            if now - moment > GRACE and not self._crew.older_than(moment):
                judge.close()
                self._retired.remove((moment, judge))

    def close(self) -> None:
        """Hand out what waits, and end; the queue takes no more parts."""
        self._queue.close()

    def join(self, timeout: float) -> None:
        """Wait for the workers, then close the engines unless a thread is still inside of one."""
        self._crew.join(timeout)
        judge = self._queue.switch(None)
        if self._crew.lost:
            return
        for retired in (judge, *(judge for _, judge in self._retired)):
            if retired is not None:
                retired.close()

    def _checked(self, judge: Judge, problem: str) -> None:
        """A golden sample was judged while there was no part; a wrong answer ends all trust."""
        if judge is not self._queue.engine:
            return  # it judges no more
        self._keeper.checked(problem)
        if problem:
            _log.error("%s; the engine is opened anew", problem)
            self._queue.switch(None)
            self._retired.append((time.monotonic(), judge))
            self._given_up = True

    def _leave_behind(self, judge: Judge) -> None:
        text = f"the engine has not come back for {self._hang:g} s"
        # Neither is it closed: a thread is inside of it.
        self._retired = [(at, other) for at, other in self._retired if other is not judge]
        if judge is self._queue.engine:
            self._queue.switch(None)
            self._given_up = True
            self._keeper.fault("engine", text)
        _log.error("%s; it is opened anew", text)
        self._crew.leave_behind(judge)
        if self._crew.lost > MOST_LOST:
            raise EngineError(f"{text}, time after time; only a new process helps")

    def _switch(self, judge: Judge, path: str) -> None:
        self.bundle = path
        self._keeper.bundle = judge.digest
        before = self._queue.switch(judge)
        if before is not None:
            self._retired.append((time.monotonic(), before))
        self._given_up, self._retry, self._wait = False, 0.0, self._hang
        self._keeper.fault("engine", "")
        self._keeper.fault("self_test", "")
        self._keeper.warning("swap", "")
        _log.info("judging with %s (%s)", path, judge.digest[:12])

    def _failed(self, path: str, problem: str) -> None:
        text = f"no swap: {problem}"
        _log.error("%s", text)
        self._keeper.warning("swap", text)
