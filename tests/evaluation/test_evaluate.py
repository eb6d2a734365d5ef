"""One pass over a test set: every number against scikit-learn, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from sanflow import schema
from sanflow.data.layout import Sample
from sanflow.errors import DataError, EngineError
from sanflow.evaluation.evaluate import evaluate
from sanflow.evaluation.result import Evaluation, write_evaluation
from sanflow.imaging import write_png

from . import oracle
from .conftest import SIDE, TestSet


def run(parts: TestSet, **options: object) -> Evaluation:
    given = {"decision": parts.decision, "root": parts.root, "resamples": 200} | options
    return evaluate(parts.samples, parts.scorer, parts.pixel_path, **given)  # type: ignore[arg-type]


def test_every_number_agrees_with_an_independent_one(parts: TestSet) -> None:
    got = run(parts)
    scores = np.array([parts.scorer(s.path)[0] for s in parts.samples])
    truth = np.array([s.label != "good" for s in parts.samples])
    assert got.auroc.value == pytest.approx(roc_auc_score(truth, scores))
    assert got.average_precision.value == pytest.approx(average_precision_score(truth, scores))
    counted = [s for s in parts.samples if s.mask is not None or s.label == "good"]
    heats = [parts.scorer(s.path)[1] for s in counted]
    nothing = np.zeros((SIDE, SIDE), np.bool_)
    masks = [
        nothing if s.mask is None else parts.pixel_path.load_mask(s.mask, s.path) for s in counted
    ]
    values, wrong = np.concatenate([h.ravel() for h in heats]), np.stack(masks).ravel()
    assert got.pixel_auroc.value == pytest.approx(roc_auc_score(wrong, values))
    assert got.pixel_average_precision.value == pytest.approx(
        average_precision_score(wrong, values)
    )
    assert (got.good, got.defective, got.without_mask) == (12, 14, 1)
    at = got.at_threshold
    alarm = scores > parts.decision.threshold
    assert (at.true_ng, at.false_ng, at.missed, at.true_ok) == (
        np.count_nonzero(alarm & truth),
        np.count_nonzero(alarm & ~truth),
        np.count_nonzero(~alarm & truth),
        np.count_nonzero(~alarm & ~truth),
    )
    assert at.f1.value == pytest.approx(f1_score(truth, alarm))
    assert at.uncertain == np.count_nonzero((scores >= 1.25) & (scores <= 1.35))


def test_a_map_that_does_not_say_where_has_no_pixel_metrics(parts: TestSet) -> None:
    got, located = run(parts, localises=False), run(parts)
    assert got.auroc == located.auroc
    assert got.at_threshold == located.at_threshold
    assert got.pixel_auroc is got.aupro is got.pixel_average_precision is None
    assert got.without_mask == 0


def test_region_overlap_agrees_with_brute_force(parts: TestSet) -> None:
    # Three values only, so that brute force over the thresholds takes no time.
    def coarse(path: Path) -> tuple[float, np.ndarray]:
        heat = np.round(parts.scorer(path)[1] * 2).astype(np.float32)
        return float(heat.max()), heat

    few = tuple(s for s in parts.samples if s.mask is not None or s.label == "good")
    got = evaluate(few, coarse, parts.pixel_path, resamples=20)
    heats = [coarse(s.path)[1] for s in few]
    nothing = np.zeros((SIDE, SIDE), np.bool_)
    masks = [nothing if s.mask is None else parts.pixel_path.load_mask(s.mask, s.path) for s in few]
    assert got.aupro.value == pytest.approx(oracle.aupro(heats, masks), abs=1e-12)


def test_each_kind_is_measured_against_the_good_ones(parts: TestSet) -> None:
    got = run(parts)
    assert [k.label for k in got.kinds] == ["dent", "scratch"]
    for kind in got.kinds:
        own = [s for s in parts.samples if s.label in ("good", kind.label)]
        scores = [parts.scorer(s.path)[0] for s in own]
        truth = [s.label != "good" for s in own]
        assert kind.auroc.value == pytest.approx(roc_auc_score(truth, scores))
        assert kind.images == sum(truth)
        assert kind.recall.value == pytest.approx(kind.found / kind.images)
        assert kind.recall.low <= kind.recall.value <= kind.recall.high
    assert got.kinds[1].regions == 5  # one scratch has no mask
    alone = evaluate(
        [s for s in parts.samples if s.label in ("good", "dent")],
        parts.scorer,
        parts.pixel_path,
        resamples=10,
    )
    assert got.kinds[0].pixel_auroc.value == pytest.approx(alone.pixel_auroc.value)
    assert got.kinds[0].aupro.value == pytest.approx(alone.aupro.value)


def test_json_reads_back_the_same(parts: TestSet, tmp_path: Path) -> None:
    got = run(parts, subject={"What": "a test"})
    write_evaluation(tmp_path / "e.json", got)
    text = (tmp_path / "e.json").read_text(encoding="utf-8")
    assert schema.load(Evaluation, json.loads(text)) == got
    assert str(tmp_path) not in text


def test_the_same_seed_gives_the_same_numbers_and_order_changes_none(parts: TestSet) -> None:
    first, again = run(parts), run(parts)
    assert replace(first, created="") == replace(again, created="")
    turned = run(replace(parts, samples=parts.samples[::-1]))
    assert turned.auroc.value == pytest.approx(first.auroc.value)
    assert turned.aupro.value == pytest.approx(first.aupro.value)
    assert turned.images == first.images[::-1]


def test_without_threshold_defects_or_good_parts_what_does_not_exist_is_none(
    parts: TestSet,
) -> None:
    assert run(parts, decision=None).at_threshold is None
    assert run(parts, decision=None).kinds[0].found is None
    good = run(replace(parts, samples=parts.samples[:12]))
    assert (good.auroc, good.pixel_auroc, good.aupro, good.kinds) == (None, None, None, ())
    assert good.at_threshold.recall is None
    assert good.at_threshold.false_alarms is not None
    bad = run(replace(parts, samples=parts.samples[12:]))
    assert bad.auroc is None
    assert bad.pixel_auroc is not None  # defective images have normal pixels
    assert bad.at_threshold.false_alarms is None


def test_images_the_model_was_made_from_are_refused(parts: TestSet) -> None:
    path = parts.samples[3].path
    with pytest.raises(DataError, match=r"1 of 26 .*03\.png \(calibrate\)"):
        run(parts, seen={path: "calibrate"}.get)
    assert run(parts, seen=lambda path: None).auroc is not None


def test_bad_scorers_are_named_with_the_image(parts: TestSet) -> None:
    def wrong_size(path: Path) -> tuple[float, np.ndarray]:
        return 1.0, np.zeros((8, 8), np.float32)

    def not_a_number(path: Path) -> tuple[float, np.ndarray]:
        return float("nan"), np.zeros((SIDE, SIDE), np.float32)

    with pytest.raises(EngineError, match=r"\.png: the anomaly map has shape \(8, 8\)"):
        evaluate(parts.samples, wrong_size, parts.pixel_path)
    with pytest.raises(EngineError, match=r"\.png: the score nan"):
        evaluate(parts.samples, not_a_number, parts.pixel_path)
    with pytest.raises(DataError, match="no test images"):
        evaluate([], parts.scorer, parts.pixel_path)


def test_progress_counts_every_image(parts: TestSet) -> None:
    seen: list[tuple[int, int]] = []
    run(parts, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 26) for i in range(26)]


def test_each_image_is_scored_once(parts: TestSet) -> None:
    calls: list[Path] = []

    def counting(path: Path) -> tuple[float, np.ndarray]:
        calls.append(path)
        return parts.scorer(path)

    evaluate(parts.samples, counting, parts.pixel_path, resamples=10)
    assert sorted(calls) == sorted(s.path for s in parts.samples)


def test_a_mask_that_vanishes_at_the_models_size_is_left_out(parts: TestSet) -> None:
    dent = parts.samples[12]
    black = parts.root / "black.png"
    write_png(black, np.zeros((48, 40), np.uint8))
    empty = Sample(dent.path, dent.label, black, dent.group)
    got = run(replace(parts, samples=(*parts.samples[:12], empty, *parts.samples[13:])))
    assert got.without_mask == 2
    assert got.images[12].localisation is None
