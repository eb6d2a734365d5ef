"""What is around the station fails, the camera, the disk, an output, the terminal: it goes on."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sanflow.bundle import Bundle
from sanflow.runtime.line.frame import Frame
from sanflow.runtime.line.journal import Follower
from sanflow.runtime.line.output import Picture, StationState
from sanflow.runtime.line.result import PartResult
from sanflow.runtime.line.source import Source, SourceError
from sanflow.runtime.line.sources.sim import Camera, sim_source

from .station_kit import LIVE, Collector, broken_promises, running, station, until


def test_a_silent_camera_is_a_fault_and_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    camera = Camera()
    made, seen = station(
        bundle,
        tmp_path / "s",
        make_source=lambda: sim_source("sim:?size=24x20&rate=1.5", camera),
        source__silence="300ms",
    )
    with running(made):
        until(lambda: "no frame for 0.3 s" in made.keeper.snapshot(0).fault)
        until(lambda: seen.results)


def test_a_camera_that_hung_and_is_still_in_use_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    """The call that hangs keeps the device for a while: the first attempts to open it anew fail."""
    held, reads, comes_back = threading.Lock(), itertools.count(1), threading.Event()

    class Device(Source):
        def __init__(self) -> None:
            super().__init__("device")
            self._frames, self._mine = sim_source(LIVE), False

        def open(self) -> None:
            if not held.acquire(blocking=False):
                raise SourceError("the camera is in use")
            self._mine = True
            self._frames.open()

        def read(self, timeout: float) -> Frame | None:
            if next(reads) == 5:
                comes_back.wait(60)
            return self._frames.read(timeout)

        def close(self) -> None:
            self._frames.close()
            if self._mine:
                held.release()

    made, seen = station(bundle, tmp_path / "s", make_source=Device, hang="300ms")
    with running(made):
        until(lambda: "the camera is in use" in made.keeper.snapshot(0).fault)
        comes_back.set()
        judged = len(seen.results)
        until(lambda: len(seen.results) > judged + 5)
        until(lambda: made.keeper.snapshot(0).fault == "")
    assert not broken_promises(seen.results)


@pytest.fixture
def small_disk(make_disk: Callable[[int], Path]) -> Path:
    """A file system of 1 MB."""
    return make_disk(1)


def test_a_disk_that_is_really_full(bundle: Bundle, small_disk: Path) -> None:
    """Verdicts go on, the state says so, and the rows are written once there is room again."""
    made, seen = station(bundle, small_disk / "s", LIVE)
    filler = small_disk / "filler"
    with running(made):
        until(lambda: made.tally.ok > 3)
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        until(lambda: "No space left on device" in made.keeper.snapshot(0).warning)
        judged = made.tally.parts
        until(lambda: made.tally.parts > judged + 50)
        assert made.keeper.snapshot(0).state == "Running"
        filler.unlink()
        until(lambda: not made.keeper.snapshot(0).warning)
    assert not broken_promises(seen.results)
    rows = list(Follower(small_disk / "s" / "journal").rows())
    assert rows == [vars(result) for result in seen.results]


class Failing(Collector):
    """A fast output whose library fails on every other part."""

    def emit(self, result: PartResult, picture: Picture | None) -> None:
        super().emit(result, picture)
        if result.result % 2:
            raise RuntimeError("registers are gone")


def test_an_output_that_fails_costs_the_others_nothing(bundle: Bundle, tmp_path: Path) -> None:
    failing = Failing()
    made, seen = station(bundle, tmp_path / "s", outputs=[failing])
    made.run()
    assert len(seen.results) == len(failing.results) == 50
    assert len(list(Follower(tmp_path / "s" / "journal").rows())) == 50


def test_a_fast_output_that_fails_is_a_warning_until_it_works(
    bundle: Bundle, tmp_path: Path
) -> None:
    """The wiring to the gate may be dead: nobody but the station can say so."""

    class Gate(Collector):
        found: dict[str, object] = {"connected": True, "error": ""}  # noqa: RUF012

        def health(self) -> dict[str, object]:
            return self.found

    gate = Gate()
    gate.name = "dio"
    made, seen = station(bundle, tmp_path / "s", LIVE, outputs=[gate])
    with running(made):
        until(lambda: made.tally.ok > 3)
        assert made.keeper.snapshot(0).warning == ""
        for found, words in (
            ({"error": "the module does not answer"}, "dio: the module does not answer"),
            ({"connected": False, "error": ""}, "dio: not connected"),
            ({"connected": True, "error": ""}, ""),
        ):
            gate.found = found
            until(lambda words=words: made.keeper.snapshot(0).warning == words)
    assert any("dio" in state.warning for state in seen.states)


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(32, "Broken pipe"), UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates")],
)
def test_a_terminal_that_is_gone_does_not_end_the_line(
    error: Exception, bundle: Bundle, tmp_path: Path
) -> None:
    """Whoever started it closed the window, or the program that its words were piped to ended."""
    made, seen = station(bundle, tmp_path / "s")

    def told(state: StationState) -> None:
        raise error

    made.told = told
    assert made.run().parts == len(seen.results) == 50
