"""The report's pictures as SVG text: score histogram, ROC, precision-recall, pixel curves."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from sklearn import metrics as sk

from ..data.layout import GOOD
from .metrics import PRO_LIMIT, Bools, Floats
from .result import Evaluation

GOOD_COLOUR, DEFECT_COLOUR, SECOND_COLOUR = "#2a7f9e", "#d2573a", "#7a5ea8"
INK, MUTED, GRID = "#1d2733", "#66727f", "#e3e8ed"
# Any, because matplotlib's own types of these keys differ between its versions.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b6c0ca",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    # The same evaluation gives the same bytes.
    "svg.hashsalt": "sanflow",
}


def score_histogram(evaluation: Evaluation) -> str:
    """Scores of good and defective test images, with the threshold and its uncertain band."""
    scores, defective = _scores(evaluation)
    at = evaluation.at_threshold

    def draw(axes: Axes) -> None:
        bins, logarithmic = _bins(scores, defective)
        for chosen, colour, name in (
            (~defective, GOOD_COLOUR, "good"),
            (defective, DEFECT_COLOUR, "defective"),
        ):
            if chosen.any():
                label = f"{name} ({np.count_nonzero(chosen)})"
                axes.hist(scores[chosen], bins.tolist(), color=colour, alpha=0.25)
                axes.hist(
                    scores[chosen],
                    bins.tolist(),
                    histtype="step",
                    color=colour,
                    linewidth=1.4,
                    label=label,
                )
        if at is not None:
            decision = at.decision
            axes.axvspan(decision.band_low, decision.band_high, color=INK, alpha=0.07, linewidth=0)
            axes.axvline(decision.threshold, color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
            axes.annotate(
                f" threshold {decision.threshold:.4g}",
                (decision.threshold, 1.0),
                xycoords=("data", "axes fraction"),
                va="bottom",
                ha="center",
                fontsize=8.5,
            )
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlabel("raw score")
        axes.set_ylabel("images")
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.2))

    return _svg(draw, 9.6, 3.1)


def image_roc(evaluation: Evaluation) -> str | None:
    """ROC curve of the image scores, with the calibrated threshold's point."""
    scores, defective = _scores(evaluation)
    at = evaluation.at_threshold
    if evaluation.auroc is None:
        return None
    rate, recall, _ = sk.roc_curve(defective, scores)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
        axes.plot(rate, recall, color=GOOD_COLOUR, linewidth=2)
        if at is not None and at.false_alarms is not None and at.recall is not None:
            axes.plot(at.false_alarms.value, at.recall.value, "o", color=INK, label="threshold")
            axes.legend(loc="lower right")
        _unit_square(axes, "false-alarm rate", "defects found")

    return _svg(draw, 3.3, 3.1)


def image_precision_recall(evaluation: Evaluation) -> str | None:
    """Precision against recall of the image scores, with the calibrated threshold's point."""
    scores, defective = _scores(evaluation)
    at = evaluation.at_threshold
    if evaluation.average_precision is None:
        return None
    precision, recall, _ = sk.precision_recall_curve(defective, scores)

    def draw(axes: Axes) -> None:
        axes.axhline(float(defective.mean()), color=GRID, linewidth=1.2)
        axes.plot(recall, precision, color=GOOD_COLOUR, linewidth=2, drawstyle="steps-pre")
        if at is not None and at.precision is not None and at.recall is not None:
            axes.plot(at.recall.value, at.precision.value, "o", color=INK, label="threshold")
            axes.legend(loc="lower left")
        _unit_square(axes, "defects found", "share of NG verdicts that are right")

    return _svg(draw, 3.3, 3.1)


def pixel_curves(evaluation: Evaluation) -> str | None:
    """Pixel ROC and region-overlap curves, with the range that AUPRO@0.3 integrates."""
    curve = evaluation.pixel_curve
    if curve is None:
        return None

    def draw(axes: Axes) -> None:
        axes.axvspan(0, PRO_LIMIT, color=SECOND_COLOUR, alpha=0.07, linewidth=0)
        rate = curve.false_positive_rate
        axes.plot(rate, curve.recall, color=GOOD_COLOUR, linewidth=2, label="defect pixels found")
        axes.plot(rate, curve.overlap, color=SECOND_COLOUR, linewidth=2, label="region overlap")
        axes.legend(loc="lower right")
        _unit_square(axes, "false-positive rate of pixels", "found")

    return _svg(draw, 3.3, 3.1)


def _scores(evaluation: Evaluation) -> tuple[Floats, Bools]:
    scores = np.array([image.score for image in evaluation.images])
    return scores, np.array([image.label != GOOD for image in evaluation.images])


def _bins(scores: Floats, defective: Bools) -> tuple[Floats, bool]:
    """Edges of the bars, and whether the axis is logarithmic: scores over several decades."""
    low, high = float(scores.min()), float(scores.max())
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-3
    usual = float(np.median(scores[~defective])) if not defective.all() else low
    logarithmic = low > 0 and high / max(usual, low) > 20
    count = int(np.clip(2 * np.sqrt(len(scores)), 16, 60))
    if logarithmic:
        return np.geomspace(low, high, count + 1), True
    return np.linspace(low, high, count + 1), False


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _svg(draw: Callable[[Axes], None], width: float, height: float) -> str:
    """A figure of this size in inches as SVG text."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
