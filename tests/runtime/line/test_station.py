"""The station end to end: a real engine, a simulated camera, every part one verdict."""

from __future__ import annotations

from pathlib import Path

from sanflow.bundle import Bundle
from sanflow.runtime.line.journal import Follower

from .station_kit import broken_promises, station


def test_every_part_gets_the_engines_verdict(bundle: Bundle, tmp_path: Path) -> None:
    made, seen = station(bundle, tmp_path / "s")
    tally = made.run()
    assert tally.parts == 50
    assert not broken_promises(seen.results)
    assert tally.ok + tally.reasons["score"] == 50, tally
    assert tally.ok > 0 < tally.ng
    rows = list(Follower(tmp_path / "s" / "journal").rows())
    assert rows == [vars(result) for result in seen.results]
    assert [state.state for state in seen.states][-1] == "Halted"
