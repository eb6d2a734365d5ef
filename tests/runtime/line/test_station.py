"""The station end to end: a real engine, a simulated camera, every part one verdict."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sanflow.bundle import Bundle, with_decisions
from sanflow.errors import BundleError, EngineError
from sanflow.runtime.detector import Detector
from sanflow.runtime.line.frame import Frame
from sanflow.runtime.line.journal import Follower
from sanflow.runtime.line.output import Control, Output, Picture, StationState
from sanflow.runtime.line.result import PartResult
from sanflow.runtime.line.ring import Board, places
from sanflow.runtime.line.source import Source, SourceError
from sanflow.runtime.line.sources.sim import Camera, Sim, picture, sim_source
from sanflow.runtime.line.station import Station
from sanflow.runtime.line.swap import Judge, prove

from ..conftest import MakeBundle
from .faults import faulty
from .station_kit import Collector, broken_promises, station

LIVE = "sim:noise?size=24x20&rate=200"


@contextmanager
def running(made: Station) -> Iterator[None]:
    """The station in a thread of its own; stopped at the end, its parts all answered."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        made.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert not made.emitter.waiting
    if failed:
        raise failed[0]


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


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


class Trigger(Output):
    """A PLC that sends part ids."""

    fast = True

    def __init__(self, early: int = 0) -> None:
        super().__init__("plc")
        self._early = early

    def attach(self, control: Control) -> None:
        self.control = control

    def open(self) -> None:
        for part in range(self._early):
            self.control.trigger(part)

    def emit(self, result: PartResult, picture: Picture | None) -> None: ...

    def close(self) -> None: ...


def test_a_trigger_before_ready_is_not_ready(bundle: Bundle, tmp_path: Path) -> None:
    plc = Trigger(early=3)
    made, seen = station(
        bundle, tmp_path / "s", "sim:", outputs=[plc], source__trigger="software", deadline="5s"
    )
    with running(made):
        until(lambda: made.keeper.snapshot(0).state == "Ready")
        plc.control.trigger(100)
        until(lambda: len(seen.results) == 4)
    assert [(r.part, r.reason) for r in seen.results][:3] == [(n, "not_ready") for n in range(3)]
    assert seen.results[3].part == 100
    assert seen.results[3].score is not None


def test_a_part_that_is_triggered_twice_gets_one_verdict(bundle: Bundle, tmp_path: Path) -> None:
    plc = Trigger()
    made, seen = station(
        bundle,
        tmp_path / "s",
        "sim:noise?size=24x20&drop=1",  # no picture comes: the part stays open
        outputs=[plc],
        source__trigger="software",
        deadline="300ms",
    )
    with running(made):
        until(lambda: made.keeper.snapshot(0).state == "Ready")
        plc.control.trigger(7)
        plc.control.trigger(7)
        until(lambda: seen.results)
        time.sleep(0.5)
    assert [(r.part, r.reason, r.late) for r in seen.results] == [(7, "no_image", False)]
    assert made.admission.duplicates == 1


def test_triggers_without_a_triggered_camera_are_answered(bundle: Bundle, tmp_path: Path) -> None:
    plc = Trigger()
    made, seen = station(bundle, tmp_path / "s", LIVE + "&count=1", outputs=[plc])
    made.run()
    assert len(seen.results) == 1
    made, seen = station(bundle, tmp_path / "t", "sim:?rate=0.001", outputs=[plc])
    with running(made):
        until(lambda: made.keeper.snapshot(0).state in ("Ready", "Running"))
        plc.control.trigger(9)
        until(lambda: any(r.part == 9 for r in seen.results))
    (found,) = [r for r in seen.results if r.part == 9]
    assert found.reason == "no_image"
    assert 'trigger = "software"' in found.detail


def stricter(bundle: Bundle, path: Path) -> Bundle:
    """The same graph with a threshold below all scores: every part is NG."""
    shutil.copytree(bundle.path, path)
    copied = Bundle.open(path)
    given = copied.manifest.graph().decision
    decision = type(given)(-1.0, None, -1.0, -1.0, given.display_low, given.display_high)
    return with_decisions(copied, [decision])


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


def test_a_retired_engines_check_takes_nobody_elses_place(bundle: Bundle, tmp_path: Path) -> None:
    judges: list[Judge] = []

    def open_judge(path: str) -> Judge:
        judges.append(prove(path, threads=1))
        return judges[-1]

    made, _ = station(bundle, tmp_path / "s", LIVE, open_judge=open_judge)
    with running(made):
        until(lambda: made.tally.ok > 3)
        made.swap(str(bundle.path))
        until(lambda: len(judges) == 2 and made.queue.engine is judges[1])
        made._judging._checked(judges[0], "the self-test gave nan")
        assert made.queue.engine is judges[1]
        assert made.keeper.snapshot(0).fault == ""
        made._judging._checked(judges[1], "the self-test gave nan")
        assert made.queue.engine is not judges[1]


def test_an_engine_that_goes_wrong_while_idle_is_found(bundle: Bundle, tmp_path: Path) -> None:
    opened: list[str] = []
    prove = faulty("nan", 3)

    def open_judge(path: str) -> Judge:
        opened.append(path)
        if len(opened) == 2:
            raise EngineError("it cannot be opened either")
        return prove(path)

    plc = Trigger()
    made, seen = station(
        bundle,
        tmp_path / "s",
        "sim:",
        open_judge=open_judge,
        outputs=[plc],
        idle_check="50ms",
        hang="500ms",
        source__trigger="software",
    )
    with running(made):
        until(lambda: made.keeper.snapshot(0).fault)
        assert "the self-test gave nan" in made.keeper.snapshot(0).fault
        assert made.keeper.heartbeat == 2
        plc.control.trigger(1)
        until(lambda: len(seen.results) == 1)
        until(lambda: not made.keeper.snapshot(0).fault)  # opened and proven anew
        plc.control.trigger(2)
        until(lambda: len(seen.results) == 2)
    assert seen.results[0].reason == "self_test"
    assert len(opened) >= 3


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


def test_the_heart_stands_still_with_the_engine(bundle: Bundle, tmp_path: Path) -> None:
    made, _ = station(
        bundle,
        tmp_path / "s",
        "sim:?rate=0.001",
        open_judge=faulty("hang", 5, 1.0),
        idle_check="20ms",
        hang="60s",
    )
    with running(made):
        until(lambda: made.keeper.heartbeat == 4)
        time.sleep(0.5)
        assert made.keeper.heartbeat == 4
        until(lambda: made.keeper.heartbeat > 4)


def test_pictures_of_another_size_are_no_dead_engine(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """They come and come, and none reaches the engine: golden samples do, and why is said."""
    made, seen = station(
        make_bundle("sized", original=(24, 20)),
        tmp_path / "s",
        "sim:noise?size=30x40&rate=200",
        idle_check="100ms",
    )
    with running(made):
        until(lambda: made.keeper.heartbeat >= 5)
        state = made.keeper.snapshot(0)
    assert state.fault == ""
    assert state.state == "Running"
    assert "pictures in a row could not be judged: the picture is 40x30 (width" in state.warning
    assert not [result for result in seen.results if result.score is not None]
    # One per period, however many parts and workers there are.
    assert made.keeper.heartbeat < len(seen.results) / 2


def test_an_engine_that_is_always_late_is_no_dead_engine(bundle: Bundle, tmp_path: Path) -> None:
    """It was quick enough once, so it is asked for every part, and answers each too late."""

    def once_quick(path: str) -> Judge:
        judge = faulty("hang", 1, 0.06)(path)
        judge.fastest = 0.001
        return judge

    made, seen = station(
        bundle,
        tmp_path / "s",
        "sim:?rate=10",
        open_judge=once_quick,
        deadline="50ms",
        idle_check="200ms",
    )
    with running(made):
        until(lambda: made.keeper.heartbeat >= 4)
        state = made.keeper.snapshot(0)
    assert "were not judged by their deadline" in state.fault
    reasons = {result.reason for result in seen.results}
    assert "deadline" in reasons
    assert reasons <= {"deadline", "overflow"}  # a busy processor makes a queue, too
    assert made.emitter.discarded > 2, "the engine was asked, and answered"


def test_what_keeps_it_from_starting_is_said(bundle: Bundle, tmp_path: Path) -> None:
    made, seen = station(bundle, tmp_path / "s", make_source=lambda: sim_source("sim:?images=/no"))
    with pytest.raises(SourceError, match="no pictures in /no"):
        made.run()
    assert seen.closed.is_set()
    shutil.rmtree(bundle.path / "golden")
    made, _ = station(bundle, tmp_path / "t")
    with pytest.raises(BundleError, match="golden"):
        made.run()


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
    held, made_sources = threading.Lock(), itertools.count(1)

    class Device(Source):
        def __init__(self) -> None:
            super().__init__("device")
            self._frames = sim_source(LIVE)
            self._number, self._reads, self._mine = next(made_sources), 0, False

        def open(self) -> None:
            if not held.acquire(blocking=False):
                raise SourceError("the camera is in use")
            self._mine = True
            self._frames.open()

        def read(self, timeout: float) -> Frame | None:
            self._reads += 1
            if self._number == 1 and self._reads == 5:
                time.sleep(1.5)
            return self._frames.read(timeout)

        def close(self) -> None:
            self._frames.close()
            if self._mine:
                held.release()

    made, seen = station(bundle, tmp_path / "s", make_source=Device, hang="300ms")
    with running(made):
        until(lambda: "the camera is in use" in made.keeper.snapshot(0).fault)
        judged = len(seen.results)
        until(lambda: len(seen.results) > judged + 5)
        assert made.keeper.snapshot(0).fault == ""
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
