"""What an evaluation found, as plain values: written as JSON beside the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import schema
from ..bundle import Decision
from ..run import replace_file
from .bootstrap import Estimate

SCHEMA: Literal["sanflow.evaluation/1"] = "sanflow.evaluation/1"


@dataclass(frozen=True)
class ImageRecord:
    """One test image and its score."""

    path: str
    label: str
    group: str
    score: float
    mask: str | None
    localisation: float | None
    """AUROC of this image's own pixels; None without both defect and normal pixels."""


@dataclass(frozen=True)
class AtThreshold:
    """Verdicts at the calibrated threshold: NG is score > threshold, and NG is positive."""

    decision: Decision
    true_ng: int
    false_ng: int
    missed: int
    true_ok: int
    uncertain: int
    """Images whose score is inside the uncertain band, both ends included."""
    f1: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    false_alarms: Estimate | None
    """Share of the good test images that are NG; compare it with decision.false_alarm_rate."""


@dataclass(frozen=True)
class Kind:
    """One defect type against all good images."""

    label: str
    images: int
    regions: int
    median_score: float
    found: int | None
    """Images above the threshold; None without a threshold."""
    recall: Estimate | None
    auroc: Estimate | None
    average_precision: Estimate | None
    pixel_auroc: Estimate | None
    aupro: Estimate | None


@dataclass(frozen=True)
class PixelCurve:
    """Points of the pixel ROC and the region-overlap curve, from no alarms to all."""

    false_positive_rate: tuple[float, ...]
    recall: tuple[float, ...]
    overlap: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """Every metric with its interval, every score, and what was evaluated on what."""

    schema: Literal["sanflow.evaluation/1"]
    sanflow: str
    created: str
    subject: dict[str, str]
    """What was evaluated, for people: run or bundle, engine, configuration, data."""
    good: int
    defective: int
    without_mask: int
    """Defective images that the pixel metrics leave out: no mask, or an empty one at this size."""
    resamples: int
    seed: int
    auroc: Estimate | None
    average_precision: Estimate | None
    pixel_auroc: Estimate | None
    pixel_average_precision: Estimate | None
    aupro: Estimate | None
    """AUPRO@0.3, integrated exactly."""
    aupro_cflow: float | None
    """CFLOW-AD's approximation, for comparison with published numbers only."""
    pixel_resolution: float
    """The largest error of the pixel AUROC that counting in intervals can cause."""
    at_threshold: AtThreshold | None
    kinds: tuple[Kind, ...]
    pixel_curve: PixelCurve | None
    images: tuple[ImageRecord, ...]


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write the JSON file, whole or not at all."""
    text = json.dumps(schema.dump(evaluation), indent=1, ensure_ascii=False, allow_nan=False)
    replace_file(path, lambda file: file.write_text(text + "\n", encoding="utf-8"))
