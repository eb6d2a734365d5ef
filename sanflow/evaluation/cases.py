"""The images that say most: missed defects, false alarms, good finds, badly placed maps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..bundle import Decision
from ..data.layout import GOOD, Sample
from ..errors import SanflowError
from ..imaging import PixelPath, overlay
from .evaluate import Scorer
from .result import Evaluation, ImageRecord

LARGEST_SIDE = 320
"""Pictures in the report are shrunk to this many pixels."""


@dataclass(frozen=True)
class Picture:
    """One case: the model's input, the map over it, the true mask (data URIs), and its facts."""

    image: str
    heat: str
    mask: str | None
    record: ImageRecord
    verdict: str | None


@dataclass(frozen=True)
class CaseGroup:
    """Cases of one sort."""

    title: str
    note: str
    pictures: tuple[Picture, ...]


def choose_cases(evaluation: Evaluation, each: int) -> list[tuple[str, str, list[int]]]:
    """(title, note, indices of images) of each sort of case, at most `each` images per sort."""
    images, at = evaluation.images, evaluation.at_threshold
    threshold = None if at is None else at.decision.threshold
    ascending = sorted(range(len(images)), key=lambda i: images[i].score)
    good = [i for i in ascending if images[i].label == GOOD][::-1]
    bad = [i for i in ascending if images[i].label != GOOD]
    missed = [i for i in bad if threshold is not None and images[i].score <= threshold]
    alarms = [i for i in good if threshold is not None and images[i].score > threshold]
    groups = [
        (f"Missed defects: {len(missed)}", "judged OK, the lowest scores first", missed)
        if missed
        else ("Weakest finds", "the defective parts with the lowest scores", bad),
        (f"False alarms: {len(alarms)}", "good parts judged NG, the highest scores first", alarms)
        if alarms
        else ("Nearest to an alarm", "the good parts with the highest scores", good),
    ]
    groups = [(title, note, indices[:each]) for title, note, indices in groups]
    best = {images[i].label: i for i in bad}  # the last of each label has the highest score
    clearest = sorted(best.values(), key=lambda i: -images[i].score)
    groups.append(("Clearest finds", "the highest score of each defect type", clearest[: 2 * each]))
    drawn = {i for _, _, indices in groups for i in indices}
    placed = [(images[i].localisation, i) for i in bad if i not in drawn and i not in missed]
    worst = [i for _, i in sorted((value, i) for value, i in placed if value is not None)]
    note = "found, but the map points elsewhere: the lowest pixel AUROC within the image"
    groups.append(("Worst localised", note, worst[:each]))
    return [group for group in groups if group[2]]


def draw_cases(
    evaluation: Evaluation,
    samples: Sequence[Sample],
    scorer: Scorer,
    pixel_path: PixelPath,
    each: int = 4,
) -> list[CaseGroup]:
    """Score the chosen images again and draw them; `samples` are those of the evaluation."""
    if len(samples) != len(evaluation.images):
        raise SanflowError(
            f"{len(samples)} samples for an evaluation of {len(evaluation.images)} images; "
            "give the samples that were evaluated"
        )
    low, high = _display(evaluation)
    decision = None if evaluation.at_threshold is None else evaluation.at_threshold.decision

    def draw(index: int) -> Picture:
        record, sample = evaluation.images[index], samples[index]
        image = pixel_path.load(sample.path)
        _, heat = scorer(sample.path)
        threshold = None if decision is None else decision.threshold
        mask = None if sample.mask is None else pixel_path.load_mask(sample.mask, sample.path)
        return Picture(
            _uri(image),
            _uri(overlay(image, heat, low, high, threshold)),
            None if mask is None else _uri(_show_mask(image, mask)),
            record,
            _verdict(record, decision),
        )

    return [
        CaseGroup(title, note, tuple(draw(index) for index in indices))
        for title, note, indices in choose_cases(evaluation, each)
    ]


def _display(evaluation: Evaluation) -> tuple[float, float]:
    """The manifest's display range; without one, from the scores of this test set."""
    if evaluation.at_threshold is not None:
        decision = evaluation.at_threshold.decision
        return decision.display_low, decision.display_high
    scores = [image.score for image in evaluation.images]
    return min(scores) / 2, max(max(scores), min(scores) / 2 + 1e-6)


def _verdict(record: ImageRecord, decision: Decision | None) -> str | None:
    if decision is None:
        return None
    return "NG" if record.score > decision.threshold else "OK"


def _show_mask(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The part in the dark, its true defect bright with an outline."""
    shown = (image * 0.45).astype(np.uint8)
    shown[mask] = np.clip(image[mask] * 0.6 + 90, 0, 255).astype(np.uint8)
    outline, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outline, -1, (255, 190, 60), max(1, round(min(mask.shape) / 200)))
    return shown


def _uri(image: NDArray[np.uint8]) -> str:
    """A picture as a data URI; JPEG, which keeps a report with thirty photographs small."""
    scale = LARGEST_SIDE / max(image.shape[:2])
    if scale < 1:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
