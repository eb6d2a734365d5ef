"""The station end to end: a real engine, a simulated camera, every part one verdict."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

from sanflow.bundle import Bundle
from sanflow.errors import BundleError
from sanflow.runtime.detector import Detector
from sanflow.runtime.line.journal import Follower
from sanflow.runtime.line.output import StationState
from sanflow.runtime.line.source import SourceError
from sanflow.runtime.line.sources.sim import Sim, picture, sim_source

from ..conftest import MakeBundle
from .faults import faulty
from .station_kit import LIVE, broken_promises, running, station, until


def test_every_part_gets_the_engines_verdict(bundle: Bundle, tmp_path: Path) -> None:
    made, seen = station(bundle, tmp_path / "s")
    tally = made.run()
    assert tally.parts == len(seen.results) == 50
    assert tally.ok > 0 < tally.ng
    assert not broken_promises(seen.results)
    with Detector(bundle, threads=1) as detector:
        for result in seen.results:
            assert result.sequence is not None
            judged = detector.judge(picture(Sim(size="24x20"), result.sequence))
            assert (result.verdict, result.score) == (judged.verdict, judged.score)
            assert result.uncertain == judged.uncertain
    rows = list(Follower(tmp_path / "s" / "journal").rows())
    assert rows == [vars(result) for result in seen.results]
    assert seen.states[-1].state == "Halted"
    assert seen.closed.is_set()


def test_a_bundle_with_a_batch_judges_the_same(
    bundle: Bundle, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    verdicts = []
    for number, given in enumerate((bundle, make_bundle("batch", batch=4))):
        made, seen = station(given, tmp_path / str(number), queue=8)
        made.run()
        verdicts.append([(result.verdict, result.score) for result in seen.results])
    assert verdicts[0] == verdicts[1]


def test_stop_gives_every_open_part_its_verdict(bundle: Bundle, tmp_path: Path) -> None:
    made, seen = station(bundle, tmp_path / "s", LIVE, open_judge=faulty("hang", 1, 0.05), queue=8)
    with running(made):
        until(lambda: len(made.queue) >= 3)
    assert not broken_promises(seen.results)
    assert made.tally.stopped
    assert len(seen.results) == made.emitter.opened


def test_nobody_trusts_a_station_that_only_waits_for_its_disk(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last verdict has left: a part that comes now would get none, however Ready it looks."""
    made, seen = station(bundle, tmp_path / "s")
    close, found = made.recorder.close, []

    def waiting() -> None:
        found.append((seen.states[-1].state, seen.closed.is_set()))
        close()

    monkeypatch.setattr(made.recorder, "close", waiting)
    made.run()
    assert found == [("Halted", True)]


def test_what_keeps_it_from_starting_is_said(bundle: Bundle, tmp_path: Path) -> None:
    made, seen = station(bundle, tmp_path / "s", make_source=lambda: sim_source("sim:?images=/no"))
    with pytest.raises(SourceError, match="no pictures in /no"):
        made.run()
    assert seen.closed.is_set()
    shutil.rmtree(bundle.path / "golden")
    made, _ = station(bundle, tmp_path / "t")
    with pytest.raises(BundleError, match="golden"):
        made.run()


def test_systemd_is_told(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    words: list[str] = []

    def listen() -> None:
        while "STOPPING=1" not in words:
            words.extend(listener.recv(4096).decode().splitlines())

    thread = threading.Thread(target=listen)
    thread.start()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    told: list[StationState] = []
    made, _ = station(bundle, tmp_path / "s", LIVE + "&count=300")
    made.told = told.append
    made.run()
    thread.join(10)
    listener.close()
    assert words.index("READY=1") < words.index("STOPPING=1")
    assert words.count("WATCHDOG=1") > 1
    assert f"STATUS=Running, bundle {bundle.manifest.digest[:12]}" in words
    states = [state.state for state in told]
    assert states[0] == "Preoperational"
    assert "Running" in states
