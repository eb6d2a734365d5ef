"""Score every test image once, and measure: of a run by PyTorch or of a bundle by its engine.

What scores an image is a callable, so this room knows neither. Images go in a random order (fixed
by the seed), which makes the first maps a fair sample of all; nothing is chosen on test data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..bundle import Decision
from ..data.layout import GOOD, Sample
from ..errors import DataError, EngineError
from ..imaging import PixelPath
from ..run import now
from . import metrics
from .bootstrap import (
    WHOLE,
    Estimate,
    Measure,
    Resampled,
    image_measure,
    pixel_measure,
    rates,
    resample,
    share,
)
from .metrics import Bools, Floats
from .pixels import PixelCounts
from .result import SCHEMA, AtThreshold, Evaluation, ImageRecord, Kind, PixelCurve

Scorer = Callable[[Path], tuple[float, NDArray[np.float32]]]
"""From an image file to its raw score and its anomaly map (height, width)."""

Seen = Callable[[Path], str | None]
"""From an image file to the role that it had when the model was made; None if it had none."""

Progress = Callable[[int, int], None]
"""Called with the number of images done and their total."""


def evaluate(
    samples: Sequence[Sample],
    scorer: Scorer,
    pixel_path: PixelPath,
    *,
    decision: Decision | None = None,
    localises: bool = True,
    subject: Mapping[str, str] | None = None,
    root: Path | None = None,
    seen: Seen | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure how well `scorer` tells good test samples from defective ones.

    Masks are compared with maps at the model's input size. `decision` adds the verdicts at its
    threshold. Where the maps do not say where (`localises` is false), there are no pixel metrics.
    `root` shortens paths in the result. `seen` tells the role that an image had when the model was
    made; a test image with one raises DataError. Memory does not grow with the images but for their
    scores and, per image, a histogram of a few kB.
    """
    if not samples:
        raise DataError("there are no test images; an evaluation needs test/good and test/<defect>")
    if seen:
        _refuse_seen(samples, seen)
    scores, counts, without_mask = _score(samples, scorer, pixel_path, localises, seed, progress)
    labels, groups = [s.label for s in samples], [s.group for s in samples]
    defective = np.array([label != GOOD for label in labels])
    kinds = sorted({label for label in labels if label != GOOD})
    threshold = None if decision is None else decision.threshold

    everyone = np.ones(len(samples), np.bool_)
    measures: list[Measure] = [image_measure(WHOLE, scores, defective, everyone, threshold)]
    for kind in kinds:
        chosen = np.array([label in (GOOD, kind) for label in labels])
        measures.append(image_measure(kind, scores, defective, chosen, threshold))
    measures.append(pixel_measure(counts, labels, GOOD))
    drawn = resample(labels, groups, measures, resamples, seed)
    test = _Test(np.array(labels), np.array(groups), scores, defective, counts, drawn, decision)

    whole = counts.measure()
    return Evaluation(
        schema=SCHEMA,
        sanflow=__version__,
        created=now(),
        subject=dict(subject or {}),
        good=int(np.count_nonzero(~defective)),
        defective=int(np.count_nonzero(defective)),
        without_mask=without_mask,
        resamples=resamples,
        seed=seed,
        auroc=drawn.estimate(f"{WHOLE}.auroc", metrics.image_auroc(scores, defective)),
        average_precision=drawn.estimate(
            f"{WHOLE}.average_precision", metrics.image_average_precision(scores, defective)
        ),
        pixel_auroc=drawn.estimate(f"{WHOLE}.pixel_auroc", whole.auroc),
        pixel_average_precision=drawn.estimate(
            f"{WHOLE}.pixel_average_precision", whole.average_precision
        ),
        aupro=drawn.estimate(f"{WHOLE}.aupro", whole.aupro),
        aupro_cflow=whole.aupro_cflow,
        pixel_resolution=counts.resolution,
        at_threshold=test.at_threshold(),
        kinds=tuple(test.kind(kind) for kind in kinds),
        pixel_curve=_pixel_curve(counts),
        images=_records(samples, scores, counts, root),
    )


@dataclass(frozen=True)
class _Test:
    """The scored test set, to be summarised."""

    labels: NDArray[Any]
    groups: NDArray[Any]
    scores: Floats
    defective: Bools
    counts: PixelCounts
    drawn: Resampled
    decision: Decision | None

    def at_threshold(self) -> AtThreshold | None:
        if self.decision is None:
            return None
        alarm = self.scores > self.decision.threshold
        tp, fp, fn, tn = (
            int(np.count_nonzero(part))
            for part in (
                alarm & self.defective,
                alarm & ~self.defective,
                ~alarm & self.defective,
                ~alarm & ~self.defective,
            )
        )
        band = (self.scores >= self.decision.band_low) & (self.scores <= self.decision.band_high)
        values = rates(*(np.asarray(float(n)) for n in (tp, fp, fn, tn)))
        estimates = {
            name: self.drawn.estimate(f"{WHOLE}.{name}", metrics.as_optional(value))
            for name, value in values.items()
        }
        for name, of in (
            ("precision", alarm),
            ("recall", self.defective),
            ("false_alarms", ~self.defective),
        ):
            estimates[name] = share(estimates[name], self._parts(of))
        uncertain = int(np.count_nonzero(band))
        return AtThreshold(self.decision, tp, fp, fn, tn, uncertain, **estimates)

    def kind(self, label: str) -> Kind:
        own = self.labels == label
        chosen = own | ~self.defective
        scores, truth = self.scores[chosen], self.defective[chosen]
        pixels = self.counts.measure({GOOD, label})
        tally = self.counts.tallies.get(label)
        found = recall = None
        if self.decision is not None:
            found = int(np.count_nonzero(self.scores[own] > self.decision.threshold))
            recall = self._estimate(label, "recall", found / int(np.count_nonzero(own)))
            recall = share(recall, self._parts(own))
        return Kind(
            label=label,
            images=int(np.count_nonzero(own)),
            regions=0 if tally is None else tally.regions,
            median_score=float(np.median(self.scores[own])),
            found=found,
            recall=recall,
            auroc=self._estimate(label, "auroc", metrics.image_auroc(scores, truth)),
            average_precision=self._estimate(
                label, "average_precision", metrics.image_average_precision(scores, truth)
            ),
            pixel_auroc=self._estimate(label, "pixel_auroc", pixels.auroc),
            aupro=self._estimate(label, "aupro", pixels.aupro),
        )

    def _parts(self, images: Bools) -> int:
        return len(set(self.groups[images].tolist()))

    def _estimate(self, label: str, name: str, value: float | None) -> Estimate | None:
        return self.drawn.estimate(f"{label}.{name}", value)


def _score(
    samples: Sequence[Sample],
    scorer: Scorer,
    pixel_path: PixelPath,
    localises: bool,
    seed: int,
    progress: Progress | None,
) -> tuple[Floats, PixelCounts, int]:
    """All scores in the order of the samples, the counted pixels, and how many lack a mask."""
    scores, counts, without_mask = np.zeros(len(samples)), PixelCounts(), 0
    expected = (pixel_path.height, pixel_path.width)
    for done, index in enumerate(np.random.default_rng(seed).permutation(len(samples)), start=1):
        sample = samples[index]
        score, heat = scorer(sample.path)
        if heat.shape != expected:
            raise EngineError(
                f"{sample.path}: the anomaly map has shape {heat.shape}, expected {expected}"
            )
        if not (math.isfinite(score) and np.isfinite(heat).all()):
            raise EngineError(
                f"{sample.path}: the score {score} or a value of its map is not a finite number"
            )
        scores[index] = score
        file = sample.mask if localises else None
        mask = None if file is None else pixel_path.load_mask(file, sample.path)
        if sample.label == GOOD:
            counts.add(int(index), GOOD, heat.astype(np.float32), None)
        elif mask is not None and mask.any():
            counts.add(int(index), sample.label, heat.astype(np.float32), mask)
        else:
            without_mask += localises
        if progress is not None:
            progress(done, len(samples))
    counts.finish()
    return scores, counts, without_mask


def _refuse_seen(samples: Sequence[Sample], seen: Seen) -> None:
    leaked = []
    for sample in samples:
        role = seen(sample.path)
        if role is not None:
            leaked.append(f"{sample.path} ({role})")
    if leaked:
        raise DataError(
            f"{len(leaked)} of {len(samples)} test images were used to make this model: "
            f"{', '.join(leaked[:5])}{' and more' if len(leaked) > 5 else ''}; "
            "evaluate on images it has never seen"
        )


def _pixel_curve(counts: PixelCounts) -> PixelCurve | None:
    tally, group = counts.total(), counts.coarse()
    if tally.regions == 0 or tally.normal.sum() == 0:
        return None
    normal, defect, overlap = (
        np.asarray(np.bincount(group, h), np.float64)
        for h in (tally.normal, tally.defect, tally.overlap)
    )
    rate, mean = metrics.pro_curve(normal, overlap, np.asarray(float(tally.regions)))
    _, recall = metrics.pro_curve(normal, defect, np.asarray(defect.sum()))
    return PixelCurve(*(tuple(np.round(c, 6).tolist()) for c in (rate, recall, mean)))


def _records(
    samples: Sequence[Sample], scores: Floats, counts: PixelCounts, root: Path | None
) -> tuple[ImageRecord, ...]:
    own = {
        row.index: metrics.as_optional(
            metrics.auroc(row.normal.astype(np.float64), row.defect.astype(np.float64))
        )
        for row in counts.rows
        if row.defect is not None
    }
    return tuple(
        ImageRecord(
            path=_relative(sample.path, root),
            label=sample.label,
            group=sample.group,
            score=float(score),
            mask=None if sample.mask is None else _relative(sample.mask, root),
            localisation=own.get(index),
        )
        for index, (sample, score) in enumerate(zip(samples, scores, strict=True))
    )


def _relative(path: Path, root: Path | None) -> str:
    if root is not None and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return path.as_posix()
