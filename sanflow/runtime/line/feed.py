"""One slow output and its own place in the journal: what it missed, it is told later.

Each output has a thread, so that a broker that is away holds up nobody else, and a file that says
how far it came, so that it goes on there after its process was killed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .journal import Follower, Position
from .output import Output, Picture, StationState, ailing
from .result import PartResult
from .whole import write_whole

POLL = 0.05
"""Seconds until the journal is looked at again."""
SAVE = 0.5
"""Seconds after which an output's place is written down; so much it may be told twice."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0
"""Seconds before a result that an output failed on is handed over again."""
ATTEMPTS = 5
"""How often, if it is not the disk or the net that failed."""

_log = logging.getLogger(__name__)


class Feed:
    """The thread that tells one output."""

    def __init__(
        self,
        output: Output,
        folder: Path,
        picture: Callable[[PartResult], Picture | None],
        state: Callable[[], StationState | None],
    ) -> None:
        """`folder` is the station's; `picture` and `state` read the shared memory."""
        self.output = output
        self._picture, self._state = picture, state
        self._place = folder / "positions" / f"{quote(output.name, safe='')}.json"
        self._follower = Follower(folder / "journal", _load(self._place))
        self._done = self._saved = self._follower.position
        self._saved_at = 0.0
        self._said: StationState | None = None
        self._closing = threading.Event()
        self.told = 0
        """Results handed over since the process began."""
        self.skipped = 0
        """Results that the output failed on again and again."""
        self.trouble = ""
        """What it failed on last; empty once it works again."""
        self._thread = threading.Thread(target=self._loop, name=f"sanflow-{output.name}")
        self._thread.daemon = True

    @property
    def file(self) -> int:
        """The number of the journal's file that it reads."""
        return self._done.file

    def start(self) -> None:
        """Open the output and begin."""
        self._thread.start()

    def close(self) -> None:
        """Tell it what there is, then close it; see `join`."""
        self._closing.set()

    def join(self, timeout: float) -> bool:
        """Whether it is done, after `timeout` seconds at most."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def health(self) -> dict[str, Any]:
        """The output's own words, and how far it is."""
        found = self.output.health()
        trouble = self.trouble or ailing(found)
        return {**found, "told": self.told, "skipped": self.skipped, "trouble": trouble}

    def _loop(self) -> None:
        if not self._insist(self.output.open):
            return
        going_on = True
        while going_on:
            last = self._closing.is_set()
            self._announce()
            going_on = self._read() and not last
            self._save(force=not going_on)
            self._closing.wait(POLL)
        self._announce()
        self.output.close()

    def _read(self) -> bool:
        """Hand over what there is; False if it has to wait for the next start.

        What the disk does not give now, or gave way to newer files just when it was to be opened,
        is looked for again.
        """
        try:
            return all(self._take(row) for row in self._follower.rows())
        except OSError as error:
            if str(error) != self.trouble:
                _log.warning("%s: the journal cannot be read: %s", self.output.name, error)
            self.trouble = str(error)
            return True

    def _take(self, row: Any) -> bool:
        """A row of the journal; one that holds no result, as another version has them, is skipped.

        False if it has to wait for the next start, and all after it.
        """
        try:
            result = PartResult(**row)
        except (TypeError, ValueError) as error:
            self.trouble = f"a row of the journal is no result of this version: {error}"
            _log.warning("%s: %s", self.output.name, self.trouble)
            self.skipped += 1
            self._done = self._follower.position
            return True
        return self._tell(result)

    def _tell(self, result: PartResult) -> bool:
        picture = self._picture(result)
        if self._insist(lambda: self.output.emit(result, picture), ATTEMPTS):
            self.told += 1
        elif self._closing.is_set():
            return False
        else:
            self.skipped += 1
        self._done = self._follower.position
        self._save()
        self._announce()
        return True

    def _insist(self, call: Callable[[], None], attempts: int | None = None) -> bool:
        """Call until it works: for ever on an OSError, else `attempts` times (None: for ever)."""
        wait, failures = FIRST_WAIT, 0
        while True:
            try:
                call()
            except Exception as error:  # outputs and their libraries raise what they like
                failures += not isinstance(error, OSError)
                text = str(error) or repr(error)
                if text != self.trouble:
                    _log.warning("%s: %s", self.output.name, text)
                self.trouble = text
            else:
                self.trouble = ""
                return True
            if failures == attempts or self._closing.wait(wait):
                return False
            wait = min(2 * wait, LONGEST_WAIT)

    def _announce(self) -> None:
        state = self._state()
        if state is None or state == self._said:
            return
        self._said = state
        try:
            self.output.announce(state)
        except Exception as error:  # the results count, not this
            self.trouble = str(error) or repr(error)

    def _save(self, force: bool = False) -> None:
        now = time.monotonic()
        if self._done == self._saved or (now - self._saved_at < SAVE and not force):
            return
        try:
            _store(self._place, self._done)
        except OSError as error:  # a full disk: at worst it is told some results twice
            self.trouble = f"{self._place}: {error.strerror}"
        else:
            self._saved, self._saved_at = self._done, now


def _load(path: Path) -> Position:
    try:
        return Position(*json.loads(path.read_text("ascii")))
    except (OSError, ValueError, TypeError):
        return Position()


def _store(path: Path, position: Position) -> None:
    write_whole(path, json.dumps([position.file, position.offset]).encode("ascii"))
