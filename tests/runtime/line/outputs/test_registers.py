"""The register map: no verdict without its part's id, no trigger that the PLC did not mean."""

from __future__ import annotations

import math
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sanflow.runtime.line.outputs import registers as r
from sanflow.runtime.line.outputs.registers import Registers, Request

from .conftest import a_result, a_state, rejected

WORD = st.integers(0, 65535)


def record(words: list[int], at: int) -> dict[str, Any]:
    (score,) = struct.unpack(">f", struct.pack(">HH", *words[at + 7 : at + 9]))
    return {
        "number": words[at] << 16 | words[at + 1],
        "part": words[at + 2] << 16 | words[at + 3],
        "verdict": words[at + 4],
        "reason": r.REASONS[words[at + 5]],
        "flags": words[at + 6],
        "score": score,
        "ms": words[at + 11] / 10,
    }


def test_before_the_first_result_nothing_is_ok() -> None:
    words = Registers().read()
    assert len(words) == r.END
    assert words[r.STATUS] == r.LAYOUT
    assert words[: r.STATUS] + words[r.STATUS + 1 :] == [0] * (r.END - 1)


def test_a_verdict_stands_next_to_its_part() -> None:
    registers = Registers()
    registers.result(a_result(3, part=70000, score=2.5, uncertain=True, total_ms=12.34))
    found = record(registers.read(), r.LATEST)
    assert found == {
        "number": 3,
        "part": 70000,
        "verdict": r.NG,
        "reason": "score",
        "flags": r.UNCERTAIN,
        "score": 2.5,
        "ms": 12.3,
    }
    registers.result(rejected(4, "deadline", total_ms=1e9))
    found = record(registers.read(), r.LATEST)
    assert (found["part"], found["verdict"], found["reason"]) == (1004, r.NG, "deadline")
    assert (found["flags"], found["ms"]) == (r.LATE, 6553.5)
    assert math.isnan(found["score"])


@given(numbers=st.lists(st.integers(1, 2**33), min_size=1, max_size=30, unique=True).map(sorted))
def test_the_last_eight_results_are_there_each_in_its_place(numbers: list[int]) -> None:
    registers = Registers()
    for number in range(1, len(numbers) + 1):
        registers.result(a_result(number, part=numbers[number - 1]))
    words = registers.read()
    for number in range(max(1, len(numbers) - r.RECORDS + 1), len(numbers) + 1):
        found = record(words, r.RING + r.RECORD * ((number - 1) % r.RECORDS))
        assert found["number"] == number
        assert found["part"] == numbers[number - 1] % 2**32
        assert found["verdict"] == (r.NG if number % 3 == 0 else r.OK)
    assert record(words, r.LATEST)["number"] == len(numbers)
    assert all(0 <= word < 65536 for word in words)


def test_a_trigger_counts_after_a_zero_and_once() -> None:
    registers = Registers()
    # A PLC that writes all its registers over and over, and a station that just restarted.
    assert registers.write(0, [7, 0, 41, 0]) == Request()
    assert not registers.read()[r.STATUS + 2] & r.ARMED
    assert registers.write(0, [0, 0, 41, 0]) == Request()
    assert registers.read()[r.STATUS + 2] & r.ARMED
    assert registers.write(0, [8, 1, 2]) == Request(part=65538)
    words = registers.read()
    assert words[r.STATUS + 4 : r.STATUS + 7] == [8, 1, 2]
    assert words[r.STATUS + 2] & r.BUSY
    assert registers.write(0, [8, 1, 3]) == Request()
    assert registers.read()[r.STATUS + 4 : r.STATUS + 7] == [8, 1, 2]
    registers.result(a_result(1, part=65538))
    assert not registers.read()[r.STATUS + 2] & r.BUSY
    # With single writes: the part first, the trigger last.
    assert registers.write(1, [0]) == Request()
    assert registers.write(2, [9]) == Request()
    assert registers.write(0, [9]) == Request(part=9)


@given(writes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40))
def test_there_are_as_many_triggers_as_changes_to_a_new_number(
    writes: list[tuple[int, int]],
) -> None:
    registers = Registers()
    asked = [registers.write(0, [number, 0, part]) for number, part in writes]
    expected, armed, before = [], False, 0
    for number, part in writes:
        armed = armed or number == 0
        expected.append(part if armed and number not in (0, before) else None)
        before = number
    assert [request and request.part for request in asked] == expected


@given(address=st.integers(-2, r.END + 3), words=st.lists(WORD, min_size=1, max_size=20))
def test_the_plc_writes_its_own_registers_only(address: int, words: list[int]) -> None:
    registers = Registers()
    before = registers.read()
    request = registers.write(address, words)
    after = registers.read()
    if address >= 0 and address + len(words) <= r.COMMANDS:
        assert after[address : address + len(words)] == words
        assert after[r.STATUS] == before[r.STATUS]
    else:
        assert request is None
        assert after == before
    assert after[r.LATEST :] == before[r.LATEST :]


def test_a_recipe_is_asked_for_when_its_number_changes() -> None:
    registers = Registers()
    assert registers.write(3, [2]) == Request(recipe=2)
    assert registers.read()[r.STATUS + 7] == 2
    assert registers.write(3, [2]) == Request()
    assert registers.write(0, [0, 0, 0, 0]) == Request()
    assert registers.write(0, [1, 0, 5, 2]) == Request(part=5, recipe=2)


def test_ready_only_without_a_fault() -> None:
    registers = Registers()
    expected = {
        ("Preoperational", ""): 0,
        ("Initialized", ""): 0,
        ("Ready", ""): r.READY,
        ("Running", ""): r.READY,
        ("Running", "late"): r.FAULT,
        ("Error", "camera lost"): r.FAULT,
        ("Halted", ""): 0,
    }
    for (state, fault), flags in expected.items():
        registers.state(a_state(state=state, fault=fault, heartbeat=65537, bundle="deadbeef00"))
        words = registers.read()
        assert words[r.STATUS + 2] == flags
        assert r.STATES[words[r.STATUS + 1]] == state
        assert words[r.STATUS + 3] == 1
        assert words[r.STATUS + 9 : r.STATUS + 11] == [0xDEAD, 0xBEEF]
    registers.state(a_state(bundle="", warning="the disk is full", queue=2))
    assert registers.read()[r.STATUS + 2] == r.READY | r.WARNING | r.BUSY
