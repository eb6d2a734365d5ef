"""Which engine and setting is fastest for this bundle on this machine: tried, not guessed.

Every candidate is opened beside the default and the two take turns, so that whatever else the
machine does slows both; what counts is the ratio of the two. A candidate that does not give the
default's very bits is refused; on another engine, whose bits are its own, it must give the bits of
that engine's default and pass the golden samples. So a tuning changes the time and no verdict.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import EngineError, InputError, ParityError
from .bench import Latency, full_batches
from .engine import Engine
from .machine import Machine, default_threads, describe, load_average, usable_cpus
from .parity import replay_goldens
from .registry import ENGINES, available_engines, default_setting, open_engine
from .setting import Setting
from .tuned import SCHEMA, Goal, Tuned, this_device, write
from .turns import Turns, bits

LEAST_GAIN = 1.03
"""The default stays unless a candidate is better by this factor, and in three turns of four."""
ROUNDS = 10
"""Turns that the default and a candidate take at least; the ratio is the median over them."""
SAME = "same bits"
HYBRID = Path("/sys/devices/cpu_atom")
"""Linux lists the efficient cores of a hybrid processor there."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trial:
    """One setting, beside the default."""

    setting: Setting
    call_ms: Latency | None
    """One inference while `in_flight` of them run; None if it was refused."""
    images_per_second: float | None
    ratio: float | None
    """How many times as good as the default, by the goal: the median over the turns."""
    low: float | None
    """The lower quartile of that."""
    scores: str
    """`same bits`, or on another engine what the golden samples say."""
    refused: str = ""
    """Why it is no choice; empty if it is one."""


@dataclass(frozen=True)
class TuneReport:
    """Everything that was tried, and what is used from now on."""

    bundle: str
    digest: str
    goal: Goal
    machine: Machine
    load_average: float | None
    trials: tuple[Trial, ...]
    """The default first, then in the order in which they were tried."""
    winner: Setting
    ratio: float
    stored: str | None
    """The file that holds the winner; None if it could not be written."""
    problem: str = ""
    """Why nothing is stored."""

    def columns(self) -> tuple[str, ...]:
        """The headings of `rows`."""
        return ("setting", "scores", "p50 ms", "p99 ms", "images/s", f"{self.goal} ratio", "")

    def rows(self) -> list[tuple[object, ...]]:
        """One row per setting, the best first; refused ones last."""
        ordered = sorted(self.trials, key=_ratio, reverse=True)
        return [
            (
                str(trial.setting),
                trial.refused or trial.scores,
                trial.call_ms and trial.call_ms.p50,
                trial.call_ms and trial.call_ms.p99,
                trial.images_per_second,
                trial.ratio,
                self._mark(trial),
            )
            for trial in ordered
        ]

    def text(self) -> str:
        """What was chosen and where it is kept, in one or two lines."""
        if self.ratio == 1:
            chosen = f"the default stays: {self.winner}"
        else:
            chosen = f"{self.winner}: {self.ratio:.2f} times as fast as the default ({self.goal})"
        where = self.stored or f"not stored: {self.problem}"
        return f"{chosen}\n{where}"

    def _mark(self, trial: Trial) -> str:
        marks = ["default"] if trial is self.trials[0] else []
        return ", ".join(marks + (["used"] if trial.setting == self.winner else []))


def tune(
    bundle: Bundle | str | os.PathLike[str],
    *,
    goal: Goal = "latency",
    engine: str | None = None,
    seconds: float = 60.0,
    progress: Progress | None = None,
) -> TuneReport:
    """Try settings for about `seconds`, store the best one for this machine and this user.

    `engine` limits the search to one engine. Raises BundleError, EngineError if the default cannot
    run, ParityError if it fails the golden samples, InputError for a time that is not positive.
    """
    if seconds <= 0:
        raise InputError(f"seconds is {seconds:g}, expected a positive number")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    load = load_average()
    default = default_setting(opened.manifest.target, engine)
    with open_engine(opened, setting=default) as base:
        search = _Search(opened, goal, base, default, seconds, progress or (lambda *_: None))
        trials = search.run(engine)
    best = max((t for t in trials if _better(t)), key=_ratio, default=trials[0])
    ratio = _ratio(best)
    stored, problem = None, ""
    try:
        tuned = Tuned(SCHEMA, this_device(opened.manifest.target), goal, best.setting, ratio)
        stored = str(write(opened, tuned))
    except OSError as error:
        problem = f"{error.strerror or error}; set XDG_CACHE_HOME to a folder of yours"
    return TuneReport(
        bundle=str(opened.path),
        digest=opened.manifest.digest,
        goal=goal,
        machine=describe(),
        load_average=load,
        trials=tuple(trials),
        winner=best.setting,
        ratio=ratio,
        stored=stored,
        problem=problem,
    )


class _Search:
    """The candidates, each beside the default."""

    def __init__(
        self,
        bundle: Bundle,
        goal: Goal,
        base: Engine,
        default: Setting,
        seconds: float,
        progress: Progress,
    ) -> None:
        self._bundle, self._goal, self._base, self._default = bundle, goal, base, default
        self._seconds, self._progress = seconds, progress
        images = [golden.image for golden in bundle.goldens()]
        self._images = full_batches(images, bundle.batch)
        self._bits: dict[str, list[bytes]] = {}
        self._said: dict[str, str] = {}
        self._turns_of_base = Turns(base, self._images)
        self._prove(base, SAME)

    def run(self, engine: str | None) -> list[Trial]:
        """The default's trial, then every candidate's; knobs are tried on the best so far."""
        target = self._bundle.manifest.target
        names = [engine] if engine else list(available_engines(target))
        plain = [s for name in names for s in shapes(name, self._goal) if s != self._default]
        total = 1 + len(plain) + sum(len(knobs(default_setting(target, n))) for n in names)
        each = self._seconds / total
        self._measure_default(each)
        trials = [self._default_trial()]
        for setting in plain:
            trials.append(self._try(setting, each))
            self._progress(len(trials), total)
        for name in names:
            own = [t for t in trials if t.setting.engine == name and t.ratio is not None]
            if not own:  # this engine cannot run, or gives other verdicts
                continue
            best = max(own, key=_ratio)
            for change in knobs(best.setting):
                trial = self._try(dataclasses.replace(best.setting, **change), each)
                trials.append(trial)
                self._progress(len(trials), total)
                if _ratio(trial) > LEAST_GAIN * _ratio(best):
                    best = trial
        # Over all turns, as the machine was on the whole.
        return [self._default_trial(), *trials[1:]]

    def _measure_default(self, seconds: float) -> None:
        self._turns_of_base.warm_up()
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline or self._turns_of_base.count < ROUNDS:
            self._turns_of_base.take(1)

    def _default_trial(self) -> Trial:
        return self._trial(self._default, self._turns_of_base, [1.0, 1.0])

    def _try(self, setting: Setting, seconds: float) -> Trial:
        try:
            self._check_engine(setting.engine)
            with open_engine(self._bundle, setting=setting) as engine:
                if bits(engine, self._images) != self._bits[setting.engine]:
                    raise EngineError("other bits than the default's")
                mine = Turns(engine, self._images)
                ratios = list(self._compare(mine, seconds))
        except (EngineError, ParityError) as error:
            return Trial(setting, None, None, None, None, "", f"refused: {error}")
        return self._trial(setting, mine, ratios)

    def _trial(self, setting: Setting, turns: Turns, ratios: Sequence[float]) -> Trial:
        low, ratio, _ = statistics.quantiles(ratios, n=4)
        return Trial(
            setting=setting,
            call_ms=turns.call_ms,
            images_per_second=turns.images_per_second,
            ratio=round(ratio, 3),
            low=round(low, 3),
            scores=self._said[setting.engine],
        )

    def _compare(self, mine: Turns, seconds: float) -> Iterator[float]:
        """How many times as good as the default, turn by turn."""
        base = self._turns_of_base
        slowest = max(mine.warm_up(), base.warm_up())
        calls = max(1, round(seconds / (2 * ROUNDS * slowest)))
        for _ in range(ROUNDS):
            before, now = base.take(calls), mine.take(calls)
            if self._goal == "latency":
                yield before.call_ms / now.call_ms
            else:
                yield now.images_per_second / before.images_per_second

    def _check_engine(self, name: str) -> None:
        """Replay the golden samples with an engine's default setting, and keep its bits."""
        if name in self._said:
            return
        default = default_setting(self._bundle.manifest.target, name, self._default.threads)
        with open_engine(self._bundle, setting=default) as engine:
            self._prove(engine)

    def _prove(self, engine: Engine, said: str = "") -> None:
        found = replay_goldens(engine, self._bundle)
        if not found.passed:
            raise ParityError(
                f"{engine.name} {engine.version}: golden samples: {'; '.join(found.failures)}"
            )
        self._bits[engine.name] = bits(engine, self._images)
        self._said[engine.name] = said or f"within {found.score_relative.max:.0e} of PyTorch"


def shapes(engine: str, goal: Goal) -> list[Setting]:
    """Threads and inferences in flight that are worth trying here; knobs at their defaults."""
    if ENGINES[engine].gpu:
        return [Setting(engine, count, count) for count in _together(engine, goal)]
    cores = default_threads()
    counts = sorted({1, max(1, cores // 2), cores, usable_cpus()})
    if goal == "latency":  # a second inference at the same time never makes the first one faster
        return [Setting(engine, threads) for threads in counts]
    return [
        Setting(engine, threads, together)
        for threads in sorted({cores, usable_cpus()})
        for together in range(1, threads + 1)
        if threads % together == 0
    ]


def _together(engine: str, goal: Goal) -> range:
    """Inferences at a time on a GPU: a third one hides copies, more only share its cores."""
    several = goal == "throughput" and engine.startswith("tensorrt")
    return range(1, 4 if several else 2)


def knobs(setting: Setting) -> list[dict[str, Any]]:
    """Single changes of a setting's other fields that its engine knows and this machine has."""
    if setting.engine == "onnxruntime":
        waiting = [{"spinning": True}] if setting.threads > setting.in_flight else []
        return [*waiting, {"parallel": True}]
    if ENGINES[setting.engine].gpu:
        return [{"cuda_graphs": False}] if setting.engine.startswith("tensorrt") else []
    changes: list[dict[str, Any]] = [{"pinned": True}]
    if usable_cpus() > default_threads():
        changes += [{"hyper_threading": True}, {"hyper_threading": False}]
    if HYBRID.is_dir():
        changes += [{"cores": "performance"}, {"cores": "efficient"}]
    return changes


def _ratio(trial: Trial) -> float:
    return trial.ratio or 0.0


def _better(trial: Trial) -> bool:
    """Better than the default for certain, as far as turns can tell."""
    return _ratio(trial) >= LEAST_GAIN and (trial.low or 0.0) > 1
