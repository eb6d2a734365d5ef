"""Two judges, the same images: score errors, map errors, ranks, and every verdict that differs.

Scores are compared relatively, map values absolutely (relatively above 1), ranks by Spearman's
correlation. A flip is a part that PyTorch and the engine judge differently. A flip whose score lies
in the decision's uncertain band is counted and forgiven; one outside it fails, whatever the
tolerances say. FP32's tolerances are rounding and hold for every image. Those of lower precision
were measured, on the export's own parts: a new image that is beyond them is counted, and its
verdict decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..bundle import Decision, Graph
from ..bundle.manifest import SMALL_SCORE, Precision
from ..errors import InputError
from .engine import Engine


@dataclass(frozen=True)
class Case:
    """One image with what PyTorch said of it; no map where only the score was stored."""

    name: str
    image: NDArray[np.uint8]  # (H, W, 3)
    score: float
    map: NDArray[np.float32] | None  # (H, W)
    known: bool = True
    """Whether the export has seen it: a golden sample, or a calibration image."""


@dataclass(frozen=True)
class Errors:
    """The largest, the mean, and the 99th percentile of some errors."""

    max: float
    mean: float
    p99: float


@dataclass(frozen=True)
class Flip:
    """A part that the two judge differently."""

    image: str
    reference: float
    engine: float
    in_band: bool
    """Whether PyTorch's score lies in the uncertain band."""


@dataclass(frozen=True)
class Comparison:
    """One engine against PyTorch on one set of images."""

    engine: str
    version: str
    precision: Precision
    """Of the graph that it ran."""
    source: str
    """`golden`, or `images` for the user's own."""
    images: int
    score_relative: Errors
    map_absolute: Errors | None
    """Over all pixels (p99: of the worst image); None without reference maps."""
    rank_correlation: float | None
    """Spearman's; None where one side's scores are all equal or not finite."""
    flips: tuple[Flip, ...]
    worst: str
    """The image with the largest score error."""
    beyond: int
    """New images that err more than the export measured in this lower precision: no failure."""
    failures: tuple[str, ...]
    """Why this comparison fails; empty if it passes."""

    @property
    def passed(self) -> bool:
        """Whether no verdict flips outside the band and every error that must is in tolerance."""
        return not self.failures

    @property
    def flips_outside(self) -> tuple[Flip, ...]:
        """The flips that no uncertain band excuses."""
        return tuple(flip for flip in self.flips if not flip.in_band)


def compare(
    engine: Engine,
    cases: Iterable[Case],
    source: str,
    step: Callable[[int], None] = lambda images: None,
) -> Comparison:
    """Run every case through the engine and compare; `step` is told of each batch's images.

    Decision and tolerances are those of the engine's graph. Only a batch of maps is held at a
    time. Raises InputError if there is no case.
    """
    graph = engine.graph
    names: list[str] = []
    wanted: list[float] = []
    found: list[float] = []
    widest: list[float] = []
    known: list[bool] = []
    heat = _Maps()
    waiting = iter(cases)
    while chunk := list(islice(waiting, engine.batch)):
        output = engine.infer(engine.filled([case.image for case in chunk]))
        for slot, case in enumerate(chunk):
            names.append(case.name)
            wanted.append(case.score)
            found.append(float(output.score[slot]))
            known.append(case.known)
            widest.append(0.0 if case.map is None else heat.add(output.map[slot], case.map))
        step(len(chunk))
    if not names:
        raise InputError(f"no image to compare on {source}")
    reference, given = np.array(wanted), np.array(found)
    relative = _distance(given, reference) / np.maximum(np.abs(reference), SMALL_SCORE)
    scores = Errors(float(relative.max()), float(relative.mean()), _percentile(relative))
    maps = heat.errors()
    flips = tuple(_flips(names, reference, given, graph.decision))
    table = _Table(names, relative, np.array(widest), np.array(known))
    return Comparison(
        engine=engine.name,
        version=engine.version,
        precision=graph.precision,
        source=source,
        images=len(names),
        score_relative=scores,
        map_absolute=maps,
        rank_correlation=rank_correlation(reference, given),
        flips=flips,
        worst=table.worst,
        beyond=table.beyond(graph),
        failures=(*_outside(flips), *table.failures(graph)),
    )


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation, tied values sharing their mean rank.

    None where one side is constant or not finite, for then there is no order to compare.
    """
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    one, two = (_ranks(values) - (len(values) - 1) / 2 for values in (first, second))
    norm = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / norm if norm > 0 else None


@dataclass
class _Maps:
    """Running statistics of map errors; memory does not grow with the number of maps."""

    largest: float = 0.0
    p99: float = 0.0
    total: float = 0.0
    pixels: int = 0

    def add(self, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
        """Take in a map; its largest error."""
        wide = wanted.astype(np.float64)
        error = (_distance(found, wide) / np.maximum(np.abs(wide), 1)).reshape(-1)
        largest = float(error.max())
        self.largest = max(self.largest, largest)
        self.p99 = max(self.p99, _percentile(error))
        self.total += float(error.sum())
        self.pixels += error.size
        return largest

    def errors(self) -> Errors | None:
        if not self.pixels:
            return None
        return Errors(self.largest, self.total / self.pixels, self.p99)


@dataclass(frozen=True)
class _Table:
    """The errors of every image."""

    names: list[str]
    scores: NDArray[np.float64]
    maps: NDArray[np.float64]
    known: NDArray[np.bool_]

    @property
    def worst(self) -> str:
        return self.names[int(self.scores.argmax())]

    def beyond(self, graph: Graph) -> int:
        tolerances = graph.tolerances
        large = (self.scores > tolerances.score_relative) | (self.maps > tolerances.map_absolute)
        return int(np.count_nonzero(large & ~self._bound(graph)))

    def failures(self, graph: Graph) -> Iterator[str]:
        tolerances, bound = graph.tolerances, self._bound(graph)
        scores, maps = np.where(bound, self.scores, 0), np.where(bound, self.maps, 0)
        if scores.max() > tolerances.score_relative:
            yield (
                f"relative score error {scores.max():.2e} of {self.names[int(scores.argmax())]} "
                f"exceeds {tolerances.score_relative:.2g}"
            )
        if maps.max() > tolerances.map_absolute:
            yield f"map error {maps.max():.2e} exceeds {tolerances.map_absolute:.2g}"

    def _bound(self, graph: Graph) -> NDArray[np.bool_]:
        """Where the tolerances hold; what is not finite is wrong everywhere."""
        if graph.precision == "fp32":
            return np.ones_like(self.known)
        finite: NDArray[np.bool_] = np.isfinite(self.scores) & np.isfinite(self.maps)
        return self.known | ~finite


def _distance(found: NDArray[np.floating], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """|found - wanted|, infinite where either is not finite."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(found.astype(np.float64) - wanted)
    return np.where(np.isfinite(distance), distance, np.inf)


def _percentile(errors: NDArray[np.float64]) -> float:
    # "higher" picks one of the values: interpolating next to an infinite one would give NaN.
    return float(np.quantile(errors, 0.99, method="higher"))


def _flips(
    names: list[str],
    reference: NDArray[np.float64],
    given: NDArray[np.float64],
    decision: Decision,
) -> Iterator[Flip]:
    for name, wanted, found in zip(names, reference.tolist(), given.tolist(), strict=True):
        if (wanted > decision.threshold) != (found > decision.threshold):
            yield Flip(name, wanted, found, decision.band_low <= wanted <= decision.band_high)


def _outside(flips: tuple[Flip, ...]) -> Iterator[str]:
    outside = [flip for flip in flips if not flip.in_band]
    if outside:
        listed = ", ".join(
            f"{flip.image} (PyTorch {flip.reference:.6g}, engine {flip.engine:.6g})"
            for flip in outside[:5]
        )
        more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
        yield f"{len(outside)} verdicts flip outside the uncertain band: {listed}{more}"


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean = (ends - counts + ends - 1) / 2
    return np.asarray(mean[inverse], np.float64)
