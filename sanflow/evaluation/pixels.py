"""Pixel metrics of any number of maps in bounded memory: histograms over well-chosen intervals.

The first maps (in random order, up to PILOT_PIXELS) are kept, and quantiles of their values become
the ends of up to INTERVALS intervals: a quarter equally spaced in rank, a quarter in the rank of
defect pixels, and half in the logarithm of the rank from the top, where false-positive rates are
small and precision changes fast. From then on a map is only counted. With fewer distinct values
than intervals the metrics are exact; otherwise AUROC is wrong by at most `resolution`, the tied
pairs (below 1e-4), the others about as little. For the bootstrap each image leaves a coarser
histogram of COARSE intervals, 2 kB, or 6 kB if it shows a defect.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import metrics
from .metrics import Floats
from .regions import find_regions

PILOT_PIXELS = 2**23
INTERVALS = 2**16
COARSE = 512

Heat = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass
class Tally:
    """Pixels per interval, of some images."""

    normal: Floats
    defect: Floats
    overlap: Floats
    """Sum over true regions of their share in the interval."""
    filled: Floats
    """The same with the regions' holes filled."""
    regions: int = 0

    @staticmethod
    def empty(intervals: int) -> Tally:
        """No pixels yet."""
        normal, defect, overlap, filled = np.zeros((4, intervals))
        return Tally(normal, defect, overlap, filled)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.normal + other.normal,
            self.defect + other.defect,
            self.overlap + other.overlap,
            self.filled + other.filled,
            self.regions + other.regions,
        )


@dataclass(frozen=True)
class PixelMetrics:
    """How well defect pixels are told apart; None where a class is missing."""

    auroc: float | None
    average_precision: float | None
    aupro: float | None
    aupro_cflow: float | None


@dataclass(frozen=True)
class Row:
    """One image's coarse histograms, for the bootstrap; good images have only `normal`."""

    index: int
    normal: NDArray[np.float32]
    defect: NDArray[np.float32] | None
    overlap: NDArray[np.float32] | None
    regions: int


@dataclass
class PixelCounts:
    """Counted maps: add() each with its truth, then read metrics per set of labels."""

    pilot: list[tuple[int, str, Heat, Mask | None]] = field(default_factory=list)
    pilot_pixels: int = PILOT_PIXELS
    intervals: int = INTERVALS
    edges: NDArray[np.float32] | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    smallest: float = np.inf
    largest: float = -np.inf

    def add(self, index: int, label: str, heat: Heat, mask: Mask | None) -> None:
        """Count the map (H, W) of image number `index`; `mask` None means all pixels normal."""
        self.smallest = min(self.smallest, float(heat.min()))
        self.largest = max(self.largest, float(heat.max()))
        if self.edges is not None:
            self._count(index, label, heat, mask)
            return
        self.pilot.append((index, label, heat, mask))
        if sum(kept.size for _, _, kept, _ in self.pilot) >= self.pilot_pixels:
            self.finish()

    def finish(self) -> None:
        """Choose the intervals from the maps so far, if that is still to be done."""
        if self.edges is not None or not self.pilot:
            return
        self.edges = self._choose_edges()
        for item in self.pilot:
            self._count(*item)
        self.pilot.clear()

    def total(self, labels: set[str] | None = None) -> Tally:
        """The sum of these labels' tallies, or of all."""
        chosen = [t for name, t in self.tallies.items() if labels is None or name in labels]
        return sum(chosen, Tally.empty(self._intervals()))

    def measure(self, labels: set[str] | None = None) -> PixelMetrics:
        """The metrics over all images of these labels, or over all."""
        t = self.total(labels)
        edges = np.zeros(0) if self.edges is None else self.edges.astype(np.float64)
        upper = np.append(edges, self.largest)
        return PixelMetrics(
            metrics.as_optional(metrics.auroc(t.normal, t.defect)),
            metrics.as_optional(metrics.average_precision(t.normal, t.defect)),
            metrics.as_optional(metrics.aupro(t.normal, t.overlap, np.asarray(float(t.regions)))),
            metrics.aupro_cflow(upper, self.smallest, t.normal, t.filled, t.regions),
        )

    @property
    def resolution(self) -> float:
        """The largest error of the AUROC over all images that the intervals can cause."""
        t = self.total()
        return metrics.tied_pairs(t.normal, t.defect)

    def coarse(self) -> NDArray[np.intp]:
        """Which coarse interval each fine one belongs to, (B,)."""
        intervals = self._intervals()
        return np.asarray(np.arange(intervals) * min(COARSE, intervals) // intervals, np.intp)

    def _intervals(self) -> int:
        return 1 if self.edges is None else len(self.edges) + 1

    def _choose_edges(self) -> NDArray[np.float32]:
        everything = np.sort(np.concatenate([heat.ravel() for _, _, heat, _ in self.pilot]))
        distinct = _distinct(everything)
        if len(distinct) < self.intervals:
            return distinct
        masks = [heat[mask] for _, _, heat, mask in self.pilot if mask is not None]
        defects = np.sort(np.concatenate([everything[:1], *masks]))
        quarter, last = self.intervals // 4 - 1, len(everything) - 1
        from_top = np.geomspace(1, len(everything), 2 * quarter) - 1
        chosen = [
            everything[np.linspace(0, last, quarter).astype(np.intp)],
            everything[last - from_top.astype(np.intp)],
            defects[np.linspace(0, len(defects) - 1, quarter).astype(np.intp)],
        ]
        return _distinct(np.sort(np.concatenate(chosen)))

    def _count(self, index: int, label: str, heat: Heat, mask: Mask | None) -> None:
        size = self._intervals()
        ends = np.zeros(0, np.float32) if self.edges is None else self.edges
        bins = np.searchsorted(ends, heat.ravel(), side="left")  # (e[b - 1], e[b]]
        everything = np.bincount(bins, minlength=size).astype(np.float64)
        tally = self.tallies.setdefault(label, Tally.empty(size))
        group = self.coarse()
        if mask is None:
            tally.normal += everything
            self.rows.append(Row(index, _merge(everything, group), None, None, 0))
            return
        regions = find_regions(mask)
        defect = np.bincount(bins[mask.ravel()], minlength=size).astype(np.float64)
        overlap = _weighted(bins, regions.weight, size)
        tally.normal += everything - defect
        tally.defect += defect
        tally.overlap += overlap
        tally.filled += _weighted(bins, regions.filled, size)
        tally.regions += regions.count
        normal, found, shared = (_merge(h, group) for h in (everything - defect, defect, overlap))
        self.rows.append(Row(index, normal, found, shared, regions.count))


def _distinct(ordered: Heat) -> Heat:
    new = np.concatenate([[True], np.diff(ordered) > 0])
    return np.compress(new, ordered)


def _weighted(bins: NDArray[np.intp], weight: Floats, size: int) -> Floats:
    return np.asarray(np.bincount(bins, weight.ravel(), minlength=size), np.float64)


def _merge(fine: Floats, group: NDArray[np.intp]) -> NDArray[np.float32]:
    return np.asarray(np.bincount(group, fine), np.float32)
