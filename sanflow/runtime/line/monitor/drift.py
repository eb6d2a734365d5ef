"""Are the parts still what the calibration parts were? A sequential test, part by part.

Let s_1, ..., s_n be the calibration scores below the threshold. The t-th accepted part is ranked
among them and all accepted parts before it,

    p_t = (#{s > s_t} + u_t #{s = s_t}) / (n + t),    u_t uniform on [0, 1], s_t among its equals,

and while the parts are exchangeable with the calibration parts, p_1, p_2, ... are independent and
uniform, exactly and for any n (Vovk). A bet is a density f on [0, 1]; the sum of what betting would
have won since any part (Shiryaev and Roberts),

    R_t = (1 + R_{t-1}) f(p_t),    E[R_t] = t,

reaches c after at least c parts on average, and within T parts with a probability of at most T / c.
Ranking among calibration parts alone would not do: whatever few of them there are differ a little
from all parts to come, and a test that runs for ever finds that.

Rejects are left out here, so that defects are no drift; that there are too many of them is a test
of its own, on their share. Each of the three signals alarms at R = 3 c: their mean is such an R,
too, and passes c no later.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Signal = Literal["rising", "falling", "rejects"]
SIGNALS: tuple[Signal, ...] = ("rising", "falling", "rejects")

SHIFTS = (0.25, 0.5, 1.0, 2.0)
"""Bets on scores that moved by so many standard deviations, were they normal; they need not be."""
ODDS = (2.0, 5.0)
"""Bets on so many times the odds of a reject."""
MOST = 100_000
"""Parts to rank among; then no more are added, and the p-values are uniform to half a percent."""
QUIET = 1000
"""Values in a row, without a new alarm, that end one."""


@dataclass(frozen=True)
class Alarm:
    """A signal that fired and has not been quiet since."""

    signal: Signal
    part: int
    """At which it fired first."""
    created: str
    """When that part's verdict was given."""


class Ranks:
    """Scores in order, each new one ranked among all before it."""

    def __init__(self, scores: Sequence[float], draw: Callable[[], float]) -> None:
        """`draw` gives uniform random numbers: ties must not tell anything."""
        self._scores, self._draw = sorted(scores), draw

    def p(self, score: float) -> float:
        """The p-value of a score, small for a great one; from now on it is one of those before."""
        scores = self._scores
        below, to = bisect_left(scores, score), bisect_right(scores, score)
        above, equal = len(scores) - to, to - below + 1
        if len(scores) < MOST:
            insort(scores, score, below, to)
        return (above + self._draw() * equal) / (above + to + 1)


class Evidence:
    """R, the mean over several bets, until it is enough."""

    def __init__(self, bets: Sequence[Callable[[float], float]], needed: float) -> None:
        """Each bet has a mean of at most 1 while nothing has changed."""
        self._bets, self._needed = bets, needed
        self._sums = [0.0] * len(bets)

    @property
    def total(self) -> float:
        """R."""
        return sum(self._sums) / len(self._sums)

    @property
    def share(self) -> float:
        """How much of an alarm that is, from 0 to 1, on a logarithmic scale."""
        return min(1.0, math.log1p(self.total) / math.log1p(self._needed))

    def add(self, value: float) -> bool:
        """Whether it is enough with this value."""
        self._sums = [(1 + r) * bet(value) for r, bet in zip(self._sums, self._bets, strict=True)]
        return self.total >= self._needed

    def restart(self) -> None:
        """Forget everything."""
        self._sums = [0.0] * len(self._bets)


class Drift:
    """The three signals of one bundle in one engine."""

    def __init__(
        self,
        scores: Sequence[float],
        threshold: float,
        *,
        parts: int,
        rejects: float,
        seed: int | None = None,
    ) -> None:
        """`scores` of the calibration parts, which may be none; a false alarm is to come once in
        `parts` parts or more rarely; `rejects` is the share of rejects that is usual at most."""
        self.threshold = threshold
        self._draw = random.Random(seed).random
        # The threshold is one of the scores, in general: given it, those below are exchangeable
        # with accepted parts, it itself is not.
        self._calibration = [s for s in scores if s < threshold]
        self._ranks = Ranks(self._calibration, self._draw)
        needed = float(len(SIGNALS) * parts)
        self._evidence: dict[Signal, Evidence] = {
            "rising": Evidence([_shift(d) for d in SHIFTS], needed),
            "falling": Evidence([_shift(-d) for d in SHIFTS], needed),
            "rejects": Evidence([_share(rejects, odds) for odds in ODDS], needed),
        }
        self.alarms: dict[Signal, Alarm] = {}
        self._quiet: dict[Signal, int] = {}

    @property
    def calibrated(self) -> int:
        """Calibration parts that accepted parts are compared with."""
        return len(self._calibration)

    def add(self, score: float, part: int, created: str) -> list[Alarm]:
        """One judged part; the alarms that it begins."""
        begun = self._look("rejects", float(score > self.threshold), part, created)
        if score < self.threshold and self._calibration:
            p = self._ranks.p(score)
            begun += self._look("rising", p, part, created)
            begun += self._look("falling", p, part, created)
        return begun

    def evidence(self) -> dict[Signal, tuple[bool, float]]:
        """Of each signal whether it alarms, and how much of an alarm its evidence is."""
        return {name: (name in self.alarms, self._evidence[name].share) for name in SIGNALS}

    def _look(self, signal: Signal, value: float, part: int, created: str) -> list[Alarm]:
        if not self._evidence[signal].add(value):
            self._quiet[signal] = self._quiet.get(signal, 0) + 1
            if self._quiet[signal] >= QUIET:
                self.alarms.pop(signal, None)
            return []
        self._quiet[signal] = 0
        self._restart(signal)
        if signal in self.alarms:
            return []
        self.alarms[signal] = Alarm(signal, part, created)
        return [self.alarms[signal]]

    def _restart(self, signal: Signal) -> None:
        """Compare with the calibration parts alone again: those since then have drifted."""
        if signal == "rejects":
            self._evidence[signal].restart()
            return
        self._ranks = Ranks(self._calibration, self._draw)
        self._evidence["rising"].restart()
        self._evidence["falling"].restart()


def _shift(d: float) -> Callable[[float], float]:
    """f(p) = exp(d z - d^2 / 2) with z the normal deviate that p is the upper tail of."""
    normal = NormalDist()

    def bet(p: float) -> float:
        z = -normal.inv_cdf(min(max(p, 1e-12), 1 - 1e-12))
        return math.exp(d * z - d * d / 2)

    return bet


def _share(usual: float, odds: float) -> Callable[[float], float]:
    """The likelihood ratio of a reject (1) or none (0); its mean is 1 at `usual`, less below it."""
    unusual = odds * usual / (1 + (odds - 1) * usual)
    hit, miss = unusual / usual, (1 - unusual) / (1 - usual)
    return lambda rejected: hit if rejected else miss
