"""What a PLC reads and writes, register by register: no protocol, no threads of its own.

The part id stands next to every verdict, so that no verdict is taken for another part's. 0 is
never OK: a register that nobody wrote says nothing good. Numbers of 32 bits have their high word
first. docs/outputs.md has the table; a test holds it to this file.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from ..output import STATES, StationState
from ..result import PartResult, Reason

LAYOUT = 1
"""Changes when a register changes its meaning."""

TRIGGER, PART, RECIPE, COMMANDS = 0, 1, 3, 8
"""The PLC writes these: number of the trigger, part id (2), number of the recipe."""
STATUS, LATEST, RING, RECORD, RECORDS = 16, 32, 48, 12, 8
"""Where the station's state, the latest result and the last RECORDS of them begin."""
END = RING + RECORD * RECORDS

READY, BUSY, FAULT, ARMED, WARNING = (1 << bit for bit in range(5))
UNCERTAIN, LATE = 1, 2
OK, NG = 1, 2
REASONS: tuple[str, ...] = get_args(Reason)
"""Their numbers are their places here."""


@dataclass(frozen=True)
class Request:
    """What the PLC asks for with one write."""

    part: int | None = None
    """The part that is in position."""
    recipe: int | None = None
    """The number of a recipe, from 1."""


class Registers:
    """All registers; any thread may call. Every read sees one moment, never half a result."""

    def __init__(self) -> None:
        self._words = [0] * END
        self._words[STATUS] = LAYOUT
        self._lock = threading.Lock()
        self._armed = False
        self._flags = 0
        self._waiting = 0
        self._open: set[int] = set()

    def read(self) -> list[int]:
        """Every register, from 0."""
        with self._lock:
            return self._words.copy()

    def write(self, address: int, words: Sequence[int]) -> Request | None:
        """The PLC wrote here: what it asks for; None if these registers are not its to write.

        A trigger is a number other than 0 that is not the last one. The first ones are not
        taken before the PLC wrote 0: after a restart of the station a PLC that writes all its
        registers over and over would otherwise trigger a part that is not there.
        """
        if address < 0 or address + len(words) > COMMANDS:
            return None
        with self._lock:
            before = self._words[:COMMANDS]
            self._words[address : address + len(words)] = words
            part = self._trigger(before[TRIGGER])
            recipe = self._words[RECIPE]
            changed = recipe not in (0, before[RECIPE])
            self._words[STATUS + 7] = recipe
            self._show()
        return Request(part, recipe if changed else None)

    def result(self, result: PartResult) -> None:
        """A part has its verdict."""
        record = [
            *_wide(result.result),
            *_wide(result.part),
            OK if result.verdict == "OK" else NG,
            REASONS.index(result.reason),
            result.uncertain * UNCERTAIN | result.late * LATE,
            *_float(result.score),
            *_float(result.threshold),
            min(65535, round(10 * result.total_ms)),
        ]
        slot = RING + RECORD * ((result.result - 1) % RECORDS)
        with self._lock:
            self._words[LATEST : LATEST + RECORD] = record
            self._words[slot : slot + RECORD] = record
            self._open.discard(result.part % 2**32)
            self._show()

    def refused(self, part: int) -> None:
        """The station could not be told of this part: it gets no verdict."""
        with self._lock:
            self._open.discard(part)
            self._show()

    def state(self, state: StationState) -> None:
        """The station's state changed, or its heart beat."""
        with self._lock:
            self._flags = (
                state.trusted * READY | bool(state.fault) * FAULT | bool(state.warning) * WARNING
            )
            self._waiting = state.queue
            self._words[STATUS + 1] = STATES.index(state.state)
            self._words[STATUS + 3] = state.heartbeat % 65536
            self._words[STATUS + 8] = min(65535, state.queue)
            self._words[STATUS + 9 : STATUS + 11] = _wide(int(state.bundle[:8] or "0", 16))
            self._show()

    def _trigger(self, before: int) -> int | None:
        number = self._words[TRIGGER]
        if number == 0:
            self._armed = True
        elif not self._armed or number == before:
            return None
        self._words[STATUS + 4] = number
        self._words[STATUS + 5 : STATUS + 7] = self._words[PART : PART + 2]
        if number == 0:
            return None
        part = self._words[PART] << 16 | self._words[PART + 1]
        self._open.add(part)
        return part

    def _show(self) -> None:
        busy = bool(self._open) or self._waiting > 0
        self._words[STATUS + 2] = self._flags | busy * BUSY | self._armed * ARMED


def _wide(value: int) -> tuple[int, int]:
    return value >> 16 & 65535, value & 65535


def _float(value: float | None) -> tuple[int, int]:
    number = math.nan if value is None else min(max(value, -3e38), 3e38)
    high, low = struct.unpack(">HH", struct.pack(">f", number))
    return high, low
