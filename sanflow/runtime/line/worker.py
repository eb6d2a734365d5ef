"""The threads between the queue and the verdict: pixels to size, through the engine, decided.

One more thread than the engine takes at a time: while the engine runs, the next part is brought to
size. A thread that does not come back from its engine cannot be ended, only left behind; its parts
have long been rejected by their deadlines, and whatever it says later is turned away.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError, ImageError
from ..engine import Output
from .emitter import Emitter
from .ledger import Entry, Outcome
from .output import Picture
from .queue import PartQueue
from .result import Reason
from .swap import Judge

Parts = PartQueue[Entry, Judge | None]

Checked = Callable[[Judge, str], None]
"""Told who judged a golden sample, and what was wrong with the answer (empty if nothing was)."""

_names = itertools.count(1)


class Worker:
    """One thread that takes parts from the queue until it is closed."""

    def __init__(self, queue: Parts, emitter: Emitter, idle: float, checked: Checked) -> None:
        """After `idle` seconds in which no part was judged in time it judges a golden sample."""
        self._queue, self._emitter = queue, emitter
        self._idle, self._checked = idle, checked
        self._abandoned = False
        self.since: float | None = None
        """Since when it works on what it has; None while it waits."""
        self.judge: Judge | None = None
        """Whose engine it works with, while it does."""
        name = f"sanflow-worker-{next(_names)}"
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def abandon(self) -> None:
        """End when the engine comes back, if ever."""
        self._abandoned = True

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait for the end, `timeout` seconds at most."""
        self._thread.join(timeout)

    def _loop(self) -> None:
        while not self._abandoned:
            taken = self._queue.take(_together, self._idle)
            if taken is None:
                return
            entries, judge = taken
            if judge is None:
                for entry in entries:
                    self._emitter.settle(entry, rejected("not_ready", "the engine was given up"))
                continue
            self.judge, self.since = judge, time.monotonic()
            if entries:
                self._work(entries, judge)
            # Parts that it did not judge in time say nothing about it, however many there are.
            if not entries or judge.rested(self._idle):
                self._check(judge)
            self.judge = self.since = None

    def _check(self, judge: Judge) -> None:
        problem = judge.check()
        if not self._abandoned:
            self._checked(judge, problem)

    def _work(self, entries: Sequence[Entry], judge: Judge) -> None:
        started = time.monotonic()
        # What is answered already is not worth the engine's time.
        waiting = [entry for entry in entries if entry.outcome is None]
        inputs: list[NDArray[np.uint8]] = []
        ready: list[Entry] = []
        for entry in waiting:
            try:
                inputs.append(_prepare(entry, judge))
                ready.append(entry)
            except Exception as error:  # one picture, whatever is wrong with it
                text = str(error) if isinstance(error, ImageError) else repr(error)
                self._emitter.settle(entry, rejected("incomplete", text, judge, started))
        prepared = time.monotonic()
        with judge.turns:
            self._infer(ready, inputs, judge, prepared - started)

    def _infer(
        self,
        entries: Sequence[Entry],
        inputs: Sequence[NDArray[np.uint8]],
        judge: Judge,
        spent: float,
    ) -> None:
        """Judge those that can still be in time; the engine's time belongs to them.

        `spent`: seconds that their pixels took.
        """
        begin = time.monotonic()
        started = begin - spent  # so that waiting for the engine counts as waiting
        last = begin + judge.fastest if math.isfinite(judge.fastest) else begin
        timely = [n for n, e in enumerate(entries) if e.outcome is None and e.due >= last]
        if not timely:
            return
        try:
            output = judge.infer(judge.batch([inputs[n] for n in timely]))
        except Exception as error:  # engines and drivers raise what they like
            judge.served()
            text = str(error) if isinstance(error, EngineError) else repr(error)
            for n in timely:
                failed = rejected("engine_error", text, judge, started, inputs[n])
                self._emitter.settle(entries[n], failed)
            return
        end = time.monotonic()
        if any(end <= entries[n].due for n in timely):
            judge.served()
        times = 1e3 * spent, 1e3 * (end - begin)
        for slot, n in enumerate(timely):
            outcome = decided(output, slot, inputs[n], judge, started, times)
            self._emitter.settle(entries[n], outcome)


def decided(
    output: Output,
    slot: int,
    pixels: NDArray[np.uint8],
    judge: Judge,
    started: float,
    times: tuple[float, float],
) -> Outcome:
    """What the engine's answer to one part means; OK only of a finite score of a finite map."""
    score, heat = float(output.score[slot]), output.map[slot]
    if not math.isfinite(score):
        return rejected("bad_score", f"the engine's score is {score}", judge, started, pixels)
    if not np.isfinite(heat).all():
        count = int(np.count_nonzero(~np.isfinite(heat)))
        text = f"{count} of {heat.size} map values are not finite"
        return rejected("bad_score", text, judge, started, pixels)
    decision = judge.decision
    return Outcome(
        reason="" if score <= decision.threshold else "score",
        score=score,
        threshold=decision.threshold,
        uncertain=decision.band_low <= score <= decision.band_high,
        bundle=judge.digest,
        engine=judge.name,
        started=started,
        prepare_ms=times[0],
        engine_ms=times[1],
        picture=Picture(pixels, heat),
    )


def rejected(
    reason: Reason,
    detail: str,
    judge: Judge | None = None,
    started: float | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> Outcome:
    """The outcome of a part that could not be judged, by `judge` if it came that far."""
    if judge is None:
        return Outcome(reason, detail)
    return Outcome(
        reason,
        detail,
        threshold=judge.decision.threshold,
        bundle=judge.digest,
        engine=judge.name,
        started=started,
        picture=None if pixels is None else Picture(pixels, None),
    )


def _together(judge: Judge | None) -> int:
    return 1 if judge is None else judge.engine.batch


def _prepare(entry: Entry, judge: Judge) -> NDArray[np.uint8]:
    if entry.frame is None or entry.frame.image is None:
        raise ImageError("there is no picture")
    return judge.bundle.pixel_path.camera(entry.frame.image)
