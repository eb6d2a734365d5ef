"""Another bundle while the line runs: proven beside the old one, it begins between two parts."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

from sanflow.bundle import Bundle
from sanflow.errors import EngineError
from sanflow.runtime.line.ring import Board, places
from sanflow.runtime.line.swap import Judge, prove

from ..conftest import MakeBundle
from .faults import faulty
from .station_kit import LIVE, broken_promises, running, station, stricter, until


def test_a_swap_lies_between_two_parts(bundle: Bundle, tmp_path: Path) -> None:
    other = stricter(bundle, tmp_path / "other")
    made, seen = station(bundle, tmp_path / "s", LIVE)
    with running(made):
        until(lambda: made.tally.ok > 5)
        made.swap(str(other.path))
        until(lambda: seen.results[-1].bundle == other.manifest.digest)
        until(lambda: made.tally.parts > 20)
    assert not broken_promises(seen.results)
    digests = [r.bundle for r in seen.results if r.score is not None]
    changes = sum(a != b for a, b in itertools.pairwise(digests))
    assert changes == 1
    assert made.tally.bundles == [bundle.manifest.digest, other.manifest.digest]
    assert not [r for r in seen.results if r.bundle == other.manifest.digest and r.verdict == "OK"]


def test_a_broken_bundle_changes_nothing(bundle: Bundle, tmp_path: Path) -> None:
    made, seen = station(bundle, tmp_path / "s", LIVE)
    (tmp_path / "broken").mkdir()
    with running(made):
        until(lambda: seen.results)
        made.swap(str(tmp_path / "broken"))
        until(lambda: made.keeper.snapshot(0).warning)
        judged = made.tally.ok
        until(lambda: made.tally.ok > judged + 3)
        assert "manifest.json" in made.keeper.snapshot(0).warning
        assert made.keeper.snapshot(0).state == "Running"
    assert made.tally.bundles == [bundle.manifest.digest]


def test_wrong_goldens_reject_every_part_until_a_good_bundle_comes(
    bundle: Bundle, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    wrong = make_bundle("wrong", golden_shift=0.5)
    made, seen = station(wrong, tmp_path / "s", LIVE)
    with running(made):
        until(lambda: len(seen.results) > 5)
        state = made.keeper.snapshot(0)
        assert state.state == "Error"
        assert "does not give PyTorch's results" in state.fault
        assert {r.reason for r in seen.results} == {"self_test"}
        assert "without pictures" in state.warning
        # Pages and brokers are told by another process, which reads this.
        board = Board(places(tmp_path / "s", "state")[0], create=False)
        until(lambda: (told := board.state()) is not None and told.fault == state.fault)
        made.swap(str(bundle.path))
        until(lambda: made.tally.ok > 3)
        assert made.keeper.snapshot(0).fault == ""
        until(lambda: (told := board.state()) is not None and told.state == "Running")
    assert not board.path.exists()


def test_a_swap_that_is_asked_for_while_the_engine_is_opened_anew_is_not_forgotten(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Opening takes longer than the wait until the next attempt, and fails each time."""
    other = stricter(bundle, tmp_path / "other")
    opening = threading.Event()
    broken = faulty("nan", 3)

    def open_judge(path: str) -> Judge:
        if path == str(other.path):
            return prove(path, threads=1)
        if made.queue.engine is None and made.keeper.snapshot(0).fault:
            opening.set()
            time.sleep(0.6)
            raise EngineError("the driver says no")
        return broken(path)

    made, _ = station(
        bundle,
        tmp_path / "s",
        "sim:?rate=0.001",
        open_judge=open_judge,
        idle_check="50ms",
        hang="300ms",
    )
    with running(made):
        until(opening.is_set)
        made.swap(str(other.path))
        until(lambda: made.keeper.bundle == other.manifest.digest, 5.0)
