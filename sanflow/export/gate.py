"""The gate: what a graph in lower precision must keep of what PyTorch says in FP32.

It is judged on held-out good parts, on synthetic anomalies made of them, whose place is known, and
on the user's own labelled defects where there are any; never on test images. The threshold moves
with the graph: it is the same order statistic of the graph's own scores, so a shift that all scores
share costs nothing. A flip is a part that PyTorch at its threshold and the graph at its own judge
differently; one whose PyTorch score lies in the FP32 band is forgiven, for there the parts cannot
tell anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..bundle import Decision
from ..bundle.manifest import SMALL_SCORE
from ..calibration.threshold import raised
from ..data.layout import GOOD
from ..evaluation.metrics import image_auroc
from ..evaluation.pixels import PixelCounts
from ..runtime.comparison import Flip, rank_correlation
from ..runtime.engine import Engine
from .parts import Part

Floats = NDArray[np.float64]
_DEFECT, _SYNTHETIC = "defect", "synthetic"


@dataclass(frozen=True)
class Contract:
    """The limits that every engine on the exporting machine has to keep."""

    flips_outside: int = 0
    """Verdicts that differ from PyTorch's outside the uncertain band."""
    rank_correlation: float = 0.98
    """Spearman's, of the scores of all parts: at least."""
    map_error: float = 0.1
    """The error that 99 % of a part's pixels keep, in the mean over parts, relative to the score
    range of good parts: at most."""
    auroc_loss: float = 0.2
    """Image AUROC of the labelled defects, in points: at most."""
    aupro_loss: float = 1.0
    """AUPRO@0.3 of the synthetic anomalies, and of the labelled defects, in points: at most."""


@dataclass(frozen=True)
class Extremes:
    """The largest errors seen: what a manifest's tolerances have to contain."""

    score_relative: float
    upper_relative: float
    """The same over parts that score at least what the median good part does, where thresholds
    are."""
    map_absolute: float
    """Relative above 1, as parity measures it."""


@dataclass(frozen=True)
class Accuracy:
    """How well scores and maps tell defects from good parts; None where there are none."""

    auroc: float | None
    aupro: float | None
    synthetic_aupro: float | None


@dataclass(frozen=True)
class Loss:
    """What a graph in one engine lost against PyTorch in FP32."""

    engine: str
    parts: int
    flips: tuple[Flip, ...]
    rank_correlation: float
    map_error: float
    auroc_loss: float | None
    """Points; None without labelled defects."""
    aupro_loss: float | None
    """Points; None without a mask."""
    synthetic_aupro_loss: float | None
    """Points; None without synthetic anomalies."""
    extremes: Extremes
    scores: tuple[float, ...]
    """The engine's, in the order of the parts."""

    @property
    def flips_outside(self) -> tuple[Flip, ...]:
        """The flips that no uncertain band excuses."""
        return tuple(flip for flip in self.flips if not flip.in_band)

    def used(self, contract: Contract) -> float:
        """The largest share of a limit that is used up; above 1 the contract is broken."""
        shares = [
            _share(len(self.flips_outside), contract.flips_outside),
            _share(1 - self.rank_correlation, 1 - contract.rank_correlation),
            _share(self.map_error, contract.map_error),
            _share(self.auroc_loss or 0.0, contract.auroc_loss),
            _share(self.aupro_loss or 0.0, contract.aupro_loss),
            _share(self.synthetic_aupro_loss or 0.0, contract.aupro_loss),
        ]
        return max(shares)

    def broken(self, contract: Contract) -> tuple[str, ...]:
        """One line per limit that is broken."""
        lines = []
        if len(self.flips_outside) > contract.flips_outside:
            listed = ", ".join(
                f"{f.image} (PyTorch {f.reference:.4g}, engine {f.engine:.4g})"
                for f in self.flips_outside[:3]
            )
            lines.append(f"{len(self.flips_outside)} verdicts flip outside the band: {listed}")
        if self.rank_correlation < contract.rank_correlation:
            lines.append(
                f"rank correlation {self.rank_correlation:.4f} is below "
                f"{contract.rank_correlation:g}"
            )
        if not self.map_error <= contract.map_error:
            lines.append(
                f"map error {self.map_error:.3g} of the good parts' score range is above "
                f"{contract.map_error:g}"
            )
        for name, loss, limit in (
            ("image AUROC of the defects", self.auroc_loss, contract.auroc_loss),
            ("AUPRO of the defects", self.aupro_loss, contract.aupro_loss),
            ("AUPRO of synthetic anomalies", self.synthetic_aupro_loss, contract.aupro_loss),
        ):
            if loss is not None and loss > limit:
                lines.append(f"{name} falls by {loss:.2f} points, above {limit:g}")
        return tuple(f"{self.engine}: {line}" for line in lines)


@dataclass(frozen=True)
class Jury:
    """Parts with PyTorch's word on them, and PyTorch's own decision."""

    parts: tuple[Part, ...]
    decision: Decision

    def smaller(self, most: int) -> Jury:
        """Every so-manieth part of each kind, for a first look."""
        kinds: dict[str, list[Part]] = {}
        for part in self.parts:
            kinds.setdefault(part.kind, []).append(part)
        step = max(1, -(-len(self.parts) // most))
        # From the end: the calibration parts with the highest scores decide the threshold.
        chosen = [part for parts in kinds.values() for part in parts[::-1][::step]]
        return Jury(tuple(chosen), self.decision)

    def hear(self, engine: Engine, step: Callable[[int], None] = lambda parts: None) -> Loss:
        """What the graph in `engine` loses; `step` is told of each batch's number of parts."""
        wanted, given, errors = self.scores, np.zeros(len(self.parts)), np.zeros(len(self.parts))
        counts, widest = PixelCounts(), 0.0
        images = (part.image for part in self.parts)
        for index, (score, heat) in enumerate(outputs(engine, images, step)):
            part = self.parts[index]
            given[index] = score
            with np.errstate(invalid="ignore"):
                error = np.abs(heat.astype(np.float64) - part.map)
            error = np.where(np.isfinite(error), error, np.inf)
            errors[index] = np.quantile(error, 0.99, method="higher")
            widest = max(widest, float((error / np.maximum(np.abs(part.map), 1)).max()))
            _count(counts, index, part, heat)
        finite = bool(np.isfinite(given).all())
        correlation = rank_correlation(wanted, given)
        if correlation is None:  # one side is constant, or not finite
            correlation = 1.0 if finite and np.ptp(wanted) == 0 else 0.0
        nothing = Accuracy(None, None, None)
        found = self._accuracy(given, counts) if finite else nothing
        own = self._own
        return Loss(
            engine=f"{engine.name} {engine.version}",
            parts=len(self.parts),
            flips=tuple(self._flips(given)),
            rank_correlation=correlation,
            map_error=float(errors.mean()) / self.score_range,
            auroc_loss=_loss(own.auroc, found.auroc),
            aupro_loss=_loss(own.aupro, found.aupro),
            synthetic_aupro_loss=_loss(own.synthetic_aupro, found.synthetic_aupro),
            extremes=self._extremes(given, widest),
            scores=tuple(given.tolist()),
        )

    def _extremes(self, given: Floats, widest: float) -> Extremes:
        with np.errstate(invalid="ignore"):
            relative = np.abs(given - self.scores) / np.maximum(np.abs(self.scores), SMALL_SCORE)
        relative = np.where(np.isfinite(relative), relative, np.inf)
        upper = self.scores >= np.median(self.scores[self._calibrating])
        return Extremes(float(relative.max()), float(relative[upper].max()), widest)

    @cached_property
    def scores(self) -> Floats:
        """PyTorch's, of all parts."""
        return np.array([part.score for part in self.parts])

    @cached_property
    def score_range(self) -> float:
        """From the lowest to the highest score of the calibration parts."""
        good = self.scores[self._calibrating]
        return max(float(np.ptp(good)), SMALL_SCORE)

    @cached_property
    def _calibrating(self) -> NDArray[np.bool_]:
        return np.array([part.kind == "calibration" for part in self.parts])

    @cached_property
    def _own(self) -> Accuracy:
        """PyTorch's."""
        counts = PixelCounts()
        for index, part in enumerate(self.parts):
            _count(counts, index, part, part.map)
        return self._accuracy(self.scores, counts)

    def _accuracy(self, scores: Floats, counts: PixelCounts) -> Accuracy:
        kinds = np.array([part.kind for part in self.parts])
        judged = kinds != _SYNTHETIC
        counts.finish()
        auroc = image_auroc(scores[judged], kinds[judged] == _DEFECT)
        return Accuracy(auroc, _aupro(counts, _DEFECT), _aupro(counts, _SYNTHETIC))

    def _flips(self, given: Floats) -> Iterator[Flip]:
        decision, wanted = self.decision, self.scores
        threshold = self.threshold(given)
        for part, mine, its in zip(self.parts, wanted.tolist(), given.tolist(), strict=True):
            # A score that is not a number is no OK.
            if (mine > decision.threshold) != (not its <= threshold):
                yield Flip(part.name, mine, its, decision.band_low <= mine <= decision.band_high)

    def threshold(self, given: Floats) -> float:
        """The order statistic of the graph's scores at the rank that PyTorch's threshold has."""
        good, rated = self.scores[self._calibrating], given[self._calibrating]
        rank = max(int(np.count_nonzero(good <= self.decision.threshold)), 1)
        return raised(float(np.sort(rated)[rank - 1]))


def outputs(
    engine: Engine,
    images: Iterable[NDArray[np.uint8]],
    step: Callable[[int], None] = lambda images: None,
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Score and map of each image; `step` is told of each batch's number of images."""
    waiting = iter(images)
    while chunk := list(islice(waiting, engine.batch)):
        batch = np.zeros(engine.inputs[0].shape, np.uint8)
        batch[: len(chunk)] = chunk
        output = engine.infer(batch)
        yield from ((float(output.score[i]), output.map[i]) for i in range(len(chunk)))
        step(len(chunk))


def _count(counts: PixelCounts, index: int, part: Part, heat: NDArray[np.float32]) -> None:
    """Good parts and masked defects; a map that is not finite cannot be ranked."""
    if not np.isfinite(heat).all():
        return
    if part.kind not in (_DEFECT, _SYNTHETIC):
        counts.add(index, GOOD, heat, None)
    elif part.mask is not None and part.mask.any():
        counts.add(index, part.kind, heat, part.mask)


def _aupro(counts: PixelCounts, kind: str) -> float | None:
    """Of one kind of masked parts against the good ones; None where there is no such part."""
    return counts.measure({GOOD, kind}).aupro if counts.tallies.get(kind) else None


def _share(value: float, limit: float) -> float:
    if value <= 0:
        return 0.0
    return value / limit if limit > 0 else np.inf


def _loss(own: float | None, found: float | None) -> float | None:
    """Points lost, negative where the graph is better."""
    if own is None:
        return None
    return np.inf if found is None else 100 * (own - found)
