"""The station: source, queue, engine, verdicts, outputs, put together and watched over.

Threads of the real-time process: a grabber, workers, the emitter, the recorder, and the one that
calls `run`, which watches: whoever is stuck in a driver or an engine is left behind and replaced, a
new bundle is proven beside the old one, the state is told. Nothing it does is in the path of a
verdict.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from ...errors import ParityError
from .admission import Admission
from .config import LineConfig, seconds
from .emitter import Emitter
from .grab import SLOW_TO_OPEN, Grabber
from .journal import Journal
from .judging import MOST_LOST, Judging
from .ledger import Entry, Ledger
from .lock import only_one
from .output import Output, Picture, StationState, ailing
from .queue import PartQueue
from .recorder import Recorder
from .result import PartResult
from .ring import Board, Ring, places
from .slowside import SlowSide
from .source import Source, SourceError
from .state import Keeper
from .swap import Judge
from .systemd import notify
from .tally import Tally

TICK = 0.05
"""Seconds between two looks of the watcher."""
AGAIN = 0.25
"""Seconds between two words about heartbeat and queue; the rest is told at once."""
SWITCH = 0.0005
"""Seconds after which a Python thread lets another go on: a verdict must not wait for five."""

_log = logging.getLogger(__name__)


class Station:
    """One line's inspection station. `run` it once; `stop`, `swap` and `trigger` from anywhere."""

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        config: LineConfig,
        folder: Path,
        *,
        prove: Callable[[str], Judge],
        make_source: Callable[[], Source],
        outputs: Sequence[Output] = (),
        slow: bool = False,
        told: Callable[[StationState], None] = lambda state: None,
    ) -> None:
        """`folder` gets the journal; `prove` opens a bundle; `outputs` are the fast ones, and
        `slow` says whether there are others; `told` is called with each new state, and may fail
        as a terminal does."""
        line = config.line
        self._config, self._folder = config, folder
        self._make_source, self._outputs, self.told = make_source, list(outputs), told
        self._with_slow_side = slow
        self.slow: SlowSide | None = None
        self._hang = seconds(line.hang)
        self.run_id = uuid.uuid4().hex
        self.tally = Tally()
        self.keeper = Keeper(line.late_to_fault, line.recover)
        self.queue: PartQueue[Entry, Judge | None] = PartQueue(line.queue, None)
        ledger = Ledger(seconds(line.deadline))
        self.emitter = Emitter(ledger, self._deliver, self._identity, self.run_id)
        self.admission = Admission(self.emitter, self.queue, self.keeper)
        self.recorder = Recorder(Journal(folder / "journal"))
        path = os.fspath(bundle)
        self._judging = Judging(path, line, prove, self.queue, self.emitter, self.keeper)
        self._grabber: Grabber | None = None
        self._grabbers: list[Grabber] = []
        self._stopping = False
        self._said: StationState | None = None
        self._said_at = 0.0

    def run(self) -> Tally:
        """Judge until `stop`, or until a source that ends was read; every part has its verdict.

        Raises what keeps it from starting: BundleError, EngineError, SourceError, OutputError,
        InputError if another station works in the folder. An engine that fails the golden samples
        raises nothing: every part is a reject then.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with only_one(self._folder):
            self._open_board()
            self._run()
        return self.tally

    def _run(self) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        cv2.setNumThreads(1)
        self.emitter.start()
        try:
            for output in self._outputs:
                output.attach(self)
                output.open()
            self._start()
            self._watch()
        finally:
            self._end()
            sys.setswitchinterval(interval)

    def stop(self) -> None:
        """Take no more frames, give every open part its verdict, and end."""
        # A signal's handler calls this in the middle of whatever its thread does: it takes no lock.
        self.tally.stopped = True
        self._stopping = True

    def swap(self, bundle: str) -> None:
        """Judge with this bundle from some next part on, once it is proven beside the old one."""
        self._judging.swap(bundle)

    def trigger(self, part: int) -> None:
        """The part with this id is in position: its deadline runs, it gets a verdict."""
        self.admission.trigger(part)

    def _start(self) -> None:
        self._tell()
        judge = None
        try:
            judge = self._judging.open()
        except ParityError as error:
            self.keeper.fault("self_test", str(error))
            self.keeper.warning("ring", "without pictures until the next start: no bundle yet")
        else:
            self.keeper.stage("Initialized")
            self._open_ring(judge)
        self.recorder.start()
        if self._with_slow_side:
            warn = partial(self.keeper.warning, "slow")
            self.slow = SlowSide(self.assignment(), warn)
            self.slow.look()
        self._judging.start(judge)
        self._grab(first=True)
        self.keeper.stage("Ready")
        # What lives until the end need not be looked through again and again.
        gc.collect()
        gc.freeze()
        self._tell()
        notify("READY=1")

    def _grab(self, *, first: bool = False) -> None:
        table = self._config.source
        triggered = table.trigger == "software"
        silence = seconds(table.silence) if table.silence else None
        grabber = Grabber(
            self._make_source,
            self.admission,
            triggered=triggered,
            silence=silence,
            frozen=table.frozen,
        )
        self._grabber = grabber
        self._grabbers = [g for g in self._grabbers if not g.join(0.0)] + [grabber]
        self.admission.request = grabber.request if triggered else None
        if not first:
            # What fails now is tried again and again, as in the middle of a grabber's life.
            grabber.opened.set()
        grabber.start()
        if first:
            patience = self._hang * SLOW_TO_OPEN
            if not grabber.opened.wait(patience):
                raise SourceError(
                    f"the source did not open within {patience:g} s; check the camera, or give "
                    "it longer with [line] hang"
                )
            if grabber.failure is not None:
                raise grabber.failure

    def _watch(self) -> None:
        while not self._stopping:
            self._look_after_source()
            self._judging.look()
            if self.slow is not None:
                self.slow.look()
            self._look_after_outputs()
            self._tell()
            grabber = self._grabber
            if grabber is not None and grabber.ended.is_set() and not self.emitter.waiting:
                return
            time.sleep(TICK)

    def _look_after_source(self) -> None:
        grabber = self._grabber
        if grabber is None or not grabber.stuck(self._hang):
            return
        grabber.abandon()
        text = f"the source has not come back for {self._hang:g} s"
        self.admission.source_state(text)
        if len(self._grabbers) > MOST_LOST:
            raise SourceError(f"{text}, time after time; only a new process helps")
        self._grab()

    def _look_after_outputs(self) -> None:
        """The fast ones; the slow process has its own page for the others."""
        for output in self._outputs:
            try:
                trouble = ailing(output.health())
            except Exception as error:  # what it cannot say is no reason to stop the line
                trouble = repr(error)
            self.keeper.warning(output.name, f"{output.name}: {trouble}" if trouble else "")

    def _deliver(self, result: PartResult, picture: Picture | None) -> None:
        for output in self._outputs:
            try:
                output.emit(result, picture)
            except Exception:  # one output that fails must not cost the others their result
                _log.exception("%s: failed on result %d", output.name, result.result)
        self.keeper.result(result)
        self.tally.count(result)
        self.recorder.put(result, picture)

    def _identity(self) -> tuple[str, str, float]:
        judge = self.queue.engine
        return (
            ("", "", 0.0) if judge is None else (judge.digest, judge.name, judge.decision.threshold)
        )

    def _tell(self) -> None:
        self.keeper.warning("journal", self.recorder.problem())
        state = self.keeper.snapshot(len(self.queue))
        self.keeper.advance()
        before, now = self._said, time.monotonic()
        changed = before is None or state.text != before.text
        if state == before or not (changed or now - self._said_at >= AGAIN):
            return
        self._said, self._said_at = state, now
        self.recorder.tell(state)
        for output in self._outputs:
            self.emitter.post(lambda output=output: output.announce(state))  # type: ignore[misc]
        if before is None or state.heartbeat != before.heartbeat:
            notify("WATCHDOG=1")
        if changed:
            notify(f"STATUS={state.text}")
            # A terminal that was closed, or cannot show a word, is no reason to stop the line.
            with contextlib.suppress(OSError, ValueError):
                self.told(state)

    def _open_board(self) -> None:
        for path in places(self._folder, "state"):
            try:
                self.recorder.board = Board(path, create=True)
            except OSError as error:
                text = f"no shared memory for the state: {error.strerror}"
                self.keeper.warning("board", f"{text}; pages and brokers are not told of it")
            else:
                self.keeper.warning("board", "")
                return

    def _open_ring(self, judge: Judge) -> None:
        pixels, slots = judge.bundle.pixel_path, self._config.line.pictures
        path = places(self._folder, "ring")[0]
        try:
            self.recorder.ring = Ring(path, slots, pixels.height, pixels.width, create=True)
        except OSError as error:
            text = f"no shared memory for {slots} pictures: {error.strerror}; [line] pictures"
            self.keeper.warning("ring", text)

    def assignment(self) -> dict[str, Any]:
        """What the slow process is told to do; see slow.Assignment."""
        ring, board, config = self.recorder.ring, self.recorder.board, self._config
        return {
            "folder": str(self._folder),
            "name": config.line.name,
            "board": "" if board is None else str(board.path),
            "ring": "" if ring is None else str(ring.path),
            "slots": 0 if ring is None else ring.slots,
            "height": 0 if ring is None else ring.height,
            "width": 0 if ring is None else ring.width,
            "output": list(config.output),
            "archive": config.archive,
            "monitor": config.monitor,
        }

    def _end(self) -> None:
        notify("STOPPING=1")
        grabber = self._grabber
        if grabber is not None:
            grabber.stop()
            grabber.join(self._hang)
        self._judging.close()
        self.emitter.close()
        self.keeper.stage("Halted")
        final = self.keeper.snapshot(0)
        # At once: what follows may take seconds, in which no part would get a verdict.
        self.recorder.tell(final)
        for output in self._outputs:
            output.announce(final)
            output.close()
        self._judging.join(self._hang)
        self.recorder.close()
        self.tally.unwritten, self.tally.trouble = self.recorder.unwritten, self.recorder.trouble
        if self.slow is not None:
            self.slow.close()
        for shared in (self.recorder.ring, self.recorder.board):
            if shared is not None:
                shared.close(remove=True)
        gc.unfreeze()
