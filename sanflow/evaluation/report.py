"""One HTML file that needs nothing else: numbers, curves, cases and provenance, and JSON beside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from ..data.layout import Sample
from ..errors import InputError
from ..imaging import PixelPath
from ..run import replace_file
from . import plots
from .bootstrap import Estimate
from .cases import draw_cases
from .evaluate import Scorer
from .page import environment
from .result import AtThreshold, Evaluation, write_evaluation

HTML, JSON = "report.html", "evaluation.json"
_TEMPLATE = "report.html.j2"


def require_folder(out: Path) -> None:
    """InputError where `out` cannot become a folder: known before hours of scoring, not after."""
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; give a folder for the report")


def write_report(
    evaluation: Evaluation,
    samples: Sequence[Sample],
    scorer: Scorer,
    pixel_path: PixelPath,
    out: Path,
) -> Path:
    """Write OUT/report.html and OUT/evaluation.json; returns the path of the page.

    `samples`, `scorer` and `pixel_path` are those of the evaluation: about twenty images are
    scored again to be drawn.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_evaluation(out / JSON, evaluation)
    figures = [
        ("Image ROC", plots.image_roc(evaluation)),
        ("Image precision and recall", plots.image_precision_recall(evaluation)),
        ("Pixels and regions", plots.pixel_curves(evaluation)),
    ]
    page = (
        environment()
        .get_template(_TEMPLATE)
        .render(
            evaluation=evaluation,
            headline=_headline(evaluation),
            at=evaluation.at_threshold,
            surprise=_surprise(evaluation.at_threshold),
            kinds=sorted(
                evaluation.kinds, key=lambda k: (k.auroc.value if k.auroc else 2, k.label)
            ),
            histogram=_svg_uri(plots.score_histogram(evaluation)),
            figures=[(title, _svg_uri(svg)) for title, svg in figures if svg is not None],
            cases=draw_cases(evaluation, samples, scorer, pixel_path),
            aspect=f"{pixel_path.width} / {pixel_path.height}",
            json_name=JSON,
        )
    )
    replace_file(out / HTML, lambda file: file.write_text(page, encoding="utf-8"))
    return out / HTML


def _headline(evaluation: Evaluation) -> list[tuple[str, Estimate | None, str]]:
    """Name, value and explanation of the large numbers."""
    at = evaluation.at_threshold
    cards = [
        ("Image AUROC", evaluation.auroc, "good and defective parts told apart by score"),
        ("Image AP", evaluation.average_precision, "average precision, defects as positives"),
        ("Pixel AUROC", evaluation.pixel_auroc, "defect pixels told apart by the map"),
        ("AUPRO@0.3", evaluation.aupro, "region overlap up to 30 % false-positive pixels"),
    ]
    if at is not None:
        cards.append(("F1", at.f1, "at the threshold"))
    return cards


def _surprise(at: AtThreshold | None) -> bool:
    """Whether even the low end of the observed false-alarm rate is above the calibrated bound."""
    if at is None or at.false_alarms is None or at.decision.false_alarm_rate is None:
        return False
    return at.false_alarms.low > at.decision.false_alarm_rate


def _svg_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
