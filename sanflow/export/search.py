"""The fastest graph that keeps the contract: regions tried alone, then all together, then fewer.

Every candidate runs beside FP32 in the same engine and the two take turns, so what else the machine
does slows both; what counts is the ratio. A search begins with everything lowered. While the gate
fails, the region that uses most of the contract for the time it saves goes back: to FP32, or where
BF16 passed before, to what it was in then. FP32 itself is always a candidate, so a search ends with
a graph.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Precision
from ..errors import ParityError
from ..runtime.engine import Engine
from .candidate import Bench, Candidate, judges
from .gate import Contract, Jury, Loss
from .plan import Plan

FIRST_LOOK = 40
"""Parts that a region alone, and a plan that may fail, are judged on first."""
LEAST_GAIN = 1.03
"""A graph that is not faster than FP32 by this factor is noise, and FP32 stays."""
ROUNDS, LONGEST = (5, 40), 3.0
"""Turns of a race, at least and at most, and the seconds after which no other begins."""
SECONDS = 900.0
"""After which no other plan is tried."""

Tell = Callable[[str], None]
"""Called with one line for people about each trial."""


@dataclass(frozen=True)
class Trial:
    """One plan beside FP32, in one engine."""

    title: str
    plan: Plan
    alone: str | None
    """The region that was lowered alone; None where the plan itself was tried."""
    speed: float
    """How many times as fast as FP32."""
    share: float
    """Of the contract that is used; above 1 it is broken."""
    losses: tuple[Loss, ...]
    """Per engine that was asked."""
    broken: tuple[str, ...]

    def text(self) -> str:
        """One line for people."""
        verdict = "breaks the contract" if self.broken else "keeps the contract"
        used = f"{100 * self.share:.0f} %" if np.isfinite(self.share) else "all"
        return f"{self.title}: {self.speed:.2f} times as fast as FP32, {verdict} ({used} of it)"


@dataclass(frozen=True)
class Outcome:
    """What is shipped, and everything that was tried on the way."""

    candidate: Candidate
    losses: tuple[Loss, ...]
    """Of the candidate, per engine of this machine; empty where it is FP32."""
    trials: tuple[Trial, ...]


class Search:
    """One model's plans, tried on one machine. Use it with `with`: it keeps FP32 open."""

    def __init__(
        self,
        bench: Bench,
        jury: Jury,
        contract: Contract,
        *,
        tell: Tell = lambda line: None,
        step: Callable[[int], None] = lambda parts: None,
        seconds: float = SECONDS,
    ) -> None:
        self._bench, self._jury, self._contract = bench, jury, contract
        self._few = jury.smaller(FIRST_LOOK)
        self._tell, self._step = tell, step
        self._deadline = time.monotonic() + seconds
        self._first = judges(bench.target)[0]
        self._trials: list[Trial] = []
        self._stack = ExitStack()
        self._plain = bench.uniform("fp32")
        self._base = self._stack.enter_context(self._plain.open(self._first))
        self._batches = _batches([part.image for part in self._few.parts], self._base.batch)

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def fixed(self, precision: Precision) -> Outcome:
        """The safe policy of a precision; ParityError with every region's cost if it fails."""
        candidate = self._bench.uniform(precision)
        trial = self._try(precision, candidate, self._jury)
        if not trial.broken:
            return Outcome(candidate, trial.losses, tuple(self._trials))
        self._regions(candidate.plan)
        raise ParityError(
            f"{precision} breaks the contract, so no bundle was written.\n"
            + "\n".join(f"  {line}" for line in trial.broken)
            + self._table()
            + "\nuse `--precision auto`, which leaves costly regions higher, or give the calibrate "
            "role more good parts"
        )

    def best(self, *, bf16: bool) -> Outcome:
        """The fastest graph that keeps the contract: FP32, BF16 where there is any, INT8 mixed."""
        passing = []
        rest = self._plain.plan
        if bf16 and (found := self._descend("bf16", rest)):
            passing.append(found)
            rest = found[1].plan
        if found := self._descend("int8", rest):
            passing.append(found)
        plain = Outcome(self._plain, (), tuple(self._trials))
        if not passing:
            return plain
        # The times of two races do not compare, their ratios to FP32 do.
        speed, candidate, losses = max(passing, key=lambda found: found[0])
        return Outcome(candidate, losses, tuple(self._trials)) if speed >= LEAST_GAIN else plain

    def _descend(
        self, precision: Precision, rest: Plan
    ) -> tuple[float, Candidate, tuple[Loss, ...]] | None:
        """The first plan to keep the contract while regions go from `precision` to what `rest`,
        which keeps it, has."""
        plan = Plan.uniform(self._bench.graph, precision)
        costs = self._regions(plan) if precision == "int8" else {}
        raised: list[str] = []
        while lowered := [region for region in _lowered(plan) if plan.of(region) == precision]:
            if time.monotonic() > self._deadline:
                self._tell(f"{precision}: the time for searching is over")
                return None
            back = ", ".join(f"{region} in {rest.of(region)}" for region in raised)
            name = f"{precision} but {back}" if raised else precision
            candidate = self._bench.make(plan)
            trial = self._try(name, candidate, self._few)
            if trial.speed < LEAST_GAIN:
                return None  # with another region raised it would be slower still
            if not trial.broken:
                trial = self._try(f"{name}, all parts", candidate, self._jury)
            if not trial.broken:
                return trial.speed, candidate, trial.losses
            costs = costs or self._regions(plan)
            worst = max(lowered, key=lambda region: _price(costs[region]))
            raised.append(worst)
            plan = plan.changed({worst: rest.of(worst)})
        return None

    def _regions(self, plan: Plan) -> dict[str, Trial]:
        """Each lowered region of the plan alone: what it saves and what it costs."""
        costs = {}
        for region in _lowered(plan):
            alone = Plan.uniform(self._bench.graph, "fp32").changed({region: plan.of(region)})
            title = f"{plan.of(region)}, {region} alone"
            costs[region] = self._try(title, self._bench.make(alone), self._few, region)
        return costs

    def _try(self, title: str, candidate: Candidate, jury: Jury, alone: str | None = None) -> Trial:
        """Race a candidate against FP32 in the first engine; hear it there, and in the others if
        the whole jury sits."""
        with candidate.open(self._first) as engine:
            mine, base = race([engine, self._base], self._batches)
            losses = [jury.hear(engine, self._step)]
        if jury is self._jury and not losses[0].broken(self._contract):
            for name in candidate.judges[1:]:
                with candidate.open(name) as other:
                    losses.append(jury.hear(other, self._step))
        trial = Trial(
            title=title,
            plan=candidate.plan,
            alone=alone,
            speed=base / mine,
            share=max(loss.used(self._contract) for loss in losses),
            losses=tuple(losses),
            broken=tuple(line for loss in losses for line in loss.broken(self._contract)),
        )
        self._trials.append(trial)
        self._tell(trial.text())
        return trial

    def _table(self) -> str:
        rows = [trial for trial in self._trials if trial.alone]
        if not rows:
            return ""
        head = "\nEach region alone (share of the contract used, speed against FP32):\n"
        return head + "\n".join(
            f"  {trial.alone:<16} {100 * trial.share:6.0f} %  {trial.speed:.2f}"
            for trial in sorted(rows, key=lambda trial: -trial.share)
        )


def race(engines: Sequence[Engine], batches: Sequence[NDArray[np.uint8]]) -> list[float]:
    """Median milliseconds per inference of each engine; they take turns on the same batches."""
    times: list[list[float]] = [[] for _ in engines]
    for engine in engines:
        engine.infer(batches[0])  # the first inference allocates
    begin, least, most = time.perf_counter(), *ROUNDS
    for turn in range(most):
        for engine, own in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine.infer(batches[turn % len(batches)])
            own.append(1e3 * (time.perf_counter() - start))
        if turn + 1 >= least and time.perf_counter() - begin > LONGEST:
            break
    return [statistics.median(own) for own in times]


def _batches(images: Sequence[NDArray[np.uint8]], size: int) -> list[NDArray[np.uint8]]:
    return [
        np.stack([images[(start + slot) % len(images)] for slot in range(size)])
        for start in range(min(8, len(images)))
    ]


def _lowered(plan: Plan) -> list[str]:
    """The regions that are not FP32."""
    return [region for region, precision in plan.regions.items() if precision != "fp32"]


def _price(trial: Trial) -> float:
    """What a region uses of the contract for each share of the time that it saves."""
    saved = max(1 - 1 / trial.speed, 0.005)
    return trial.share / saved
