"""The page: self-contained, well-formed, escaped, and showing the numbers of the JSON."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from sanflow import schema
from sanflow.errors import SanflowError
from sanflow.evaluation import plots
from sanflow.evaluation.cases import choose_cases, draw_cases
from sanflow.evaluation.evaluate import evaluate
from sanflow.evaluation.report import write_report
from sanflow.evaluation.result import Evaluation

from .conftest import TestSet

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text and links, and fails on tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def evaluated(parts: TestSet, **options: object) -> Evaluation:
    given = {"decision": parts.decision, "root": parts.root, "resamples": 50} | options
    return evaluate(parts.samples, parts.scorer, parts.pixel_path, **given)  # type: ignore[arg-type]


def render(parts: TestSet, evaluation: Evaluation, out: Path) -> Page:
    path = write_report(evaluation, parts.samples, parts.scorer, parts.pixel_path, out)
    assert path == out / "report.html"
    values = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert schema.load(Evaluation, values) == evaluation
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else_and_shows_the_numbers(parts: TestSet, tmp_path: Path) -> None:
    got = evaluated(parts, subject={"What": "run a", "Engine": "PyTorch"})
    page = render(parts, got, tmp_path / "out")
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    for value in (got.auroc, got.average_precision, got.pixel_auroc, got.aupro):
        assert f"{value.value:.3f}" in page.text
        assert f"{value.low:.3f} – " in page.text
    for words in ("Evaluation of run a", "dent", "scratch", "PyTorch", "threshold", "F1"):
        assert words in page.text
    assert f"{got.at_threshold.missed} missed" in page.text
    assert "1 defective images have no mask" in page.text


def test_pictures_decode_and_svg_parses(parts: TestSet, tmp_path: Path) -> None:
    page = render(parts, evaluated(parts), tmp_path)
    kinds = {"svg": 0, "jpeg": 0}
    for link in page.links:
        head, data = link.split(",", 1)
        raw = base64.b64decode(data, validate=True)
        if "svg" in head:
            assert ElementTree.fromstring(raw).tag.endswith("svg")
            kinds["svg"] += 1
        else:
            image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (32, 32, 3)
            kinds["jpeg"] += 1
    assert kinds["svg"] == 4
    assert kinds["jpeg"] >= 20


def test_names_from_the_outside_are_escaped(parts: TestSet, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    samples = tuple(replace(s, label=evil) if s.label == "dent" else s for s in parts.samples)
    nasty = replace(parts, samples=samples)
    got = evaluated(nasty, subject={"What": evil, evil: evil})
    page = render(nasty, got, tmp_path)  # Page refuses a real <script>
    assert evil in page.text


def test_pages_without_threshold_without_defects_and_of_equal_scores(
    parts: TestSet, tmp_path: Path
) -> None:
    page = render(parts, evaluated(parts, decision=None), tmp_path / "a")
    assert "At the calibrated threshold" not in page.text
    good = replace(parts, samples=parts.samples[:12])
    page = render(good, evaluated(good), tmp_path / "b")
    assert "By defect type" not in page.text
    assert "–" in page.text

    def flat(path: Path) -> tuple[float, np.ndarray]:
        return 1.0, np.ones((32, 32), np.float32)

    same = replace(parts, scorer=flat)
    assert "0.500" in render(same, evaluated(same), tmp_path / "c").text


def test_more_false_alarms_than_calibrated_are_pointed_out(parts: TestSet, tmp_path: Path) -> None:
    low = replace(parts.decision, threshold=0.5, band_low=0.4, band_high=0.6)
    warning = "More false alarms than the calibration allows for"
    assert warning in render(parts, evaluated(parts, decision=low), tmp_path / "a").text
    high = replace(parts.decision, threshold=9.0, band_low=8.0, band_high=10.0)
    assert warning not in render(parts, evaluated(parts, decision=high), tmp_path / "b").text


def test_cases_are_the_extreme_ones(parts: TestSet) -> None:
    got = evaluated(parts)
    groups = {title.split(":")[0]: indices for title, _, indices in choose_cases(got, 3)}
    images = got.images
    threshold = parts.decision.threshold
    missed = [i for i, r in enumerate(images) if r.label != "good" and r.score <= threshold]
    alarms = [i for i, r in enumerate(images) if r.label == "good" and r.score > threshold]
    weakest = groups["Missed defects" if missed else "Weakest finds"]
    pool = missed or [i for i, r in enumerate(images) if r.label != "good"]
    assert weakest == sorted(pool, key=lambda i: images[i].score)[:3]
    highest = groups["False alarms" if alarms else "Nearest to an alarm"]
    assert images[highest[0]].score == max(r.score for r in images if r.label == "good")
    assert {images[i].label for i in groups["Clearest finds"]} == {"dent", "scratch"}
    placed = [images[i].localisation for i in groups["Worst localised"]]
    assert placed == sorted(placed)


def test_cases_of_other_samples_are_refused(parts: TestSet) -> None:
    got = evaluated(parts)
    with pytest.raises(SanflowError, match="25 samples for an evaluation of 26"):
        draw_cases(got, parts.samples[1:], parts.scorer, parts.pixel_path)


def test_the_same_evaluation_gives_the_same_bytes(parts: TestSet, tmp_path: Path) -> None:
    got = evaluated(parts)
    pages = []
    for name in ("a", "b"):
        render(parts, got, tmp_path / name)
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_scores_over_decades_get_a_logarithmic_axis(parts: TestSet) -> None:
    def steep(path: Path) -> tuple[float, np.ndarray]:
        score, heat = parts.scorer(path)
        return float(np.exp(8 * score)), np.exp(8 * heat)

    got = evaluated(replace(parts, scorer=steep), decision=None)
    assert "mathdefault{10^" in plots.score_histogram(got) or "10^" in plots.score_histogram(got)
    assert "10^" not in plots.score_histogram(evaluated(parts, decision=None))
