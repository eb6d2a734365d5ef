"""Pixel metrics against scikit-learn and brute force, exact and counted, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from sanflow.evaluation import metrics
from sanflow.evaluation.pixels import PixelCounts, PixelMetrics
from sanflow.evaluation.regions import find_regions

from . import oracle

Heats = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]


def scene(rng: np.random.Generator, images: int, side: int, levels: int = 0) -> tuple[Heats, Masks]:
    """Maps with blobs that are hotter inside the masks; `levels` makes equal values common."""
    heats, masks = [], []
    for _ in range(images):
        mask = np.zeros((side, side), np.bool_)
        for _ in range(rng.integers(0, 4)):
            r, c = rng.integers(0, side, 2)
            h, w = rng.integers(1, 2 + side // 3, 2)
            mask[r : r + h, c : c + w] = True
        if mask[1:-1, 1:-1].all(axis=None):
            mask[0, 0] = False
        heat = rng.normal(size=mask.shape) + 1.2 * mask * rng.uniform(0, 2)
        if levels:
            heat = np.round(heat * levels) / levels
        heats.append(heat.astype(np.float32))
        masks.append(mask)
    masks[0][0, :2] = True  # at least one region and one normal pixel
    masks[0][-1, -1] = False
    return heats, masks


def count(heats: Heats, masks: Masks, **options: int) -> PixelCounts:
    counts = PixelCounts(**options)
    for index, (heat, mask) in enumerate(zip(heats, masks, strict=True)):
        counts.add(index, "hole" if mask.any() else "good", heat, mask if mask.any() else None)
    counts.finish()
    return counts


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(4, 9), st.sampled_from([0, 1, 4]))
def test_small_scenes_agree_with_brute_force(
    seed: int, images: int, side: int, levels: int
) -> None:
    heats, masks = scene(np.random.default_rng(seed), images, side, levels)
    got = count(heats, masks).measure()
    values, truth = (
        np.concatenate([h.ravel() for h in heats]),
        np.concatenate([m.ravel() for m in masks]),
    )
    assert got.auroc == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert got.average_precision == pytest.approx(average_precision_score(truth, values), abs=1e-12)
    assert got.aupro == pytest.approx(oracle.aupro(heats, masks), abs=1e-12)


def test_the_curve_is_the_brute_force_curve() -> None:
    heats, masks = scene(np.random.default_rng(3), 3, 6, levels=1)
    tally = count(heats, masks).total()
    rate, overlap = metrics.pro_curve(tally.normal, tally.overlap, np.asarray(float(tally.regions)))
    # Intervals without pixels repeat a point.
    drawn = sorted(set(zip(rate.round(12), overlap.round(12), strict=True)))
    assert drawn == sorted({(round(x, 12), round(y, 12)) for x, y in oracle.curve(heats, masks)})


@pytest.mark.parametrize("seed", range(5))
def test_the_cflow_variant_agrees_with_its_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heats, masks = scene(rng, 3, 12)
    masks[0][2:9, 2:9] = True
    masks[0][4:7, 4:7] = False  # a region with a hole: filled in the numerator only
    got = count(heats, masks).measure().aupro_cflow
    assert got == pytest.approx(oracle.aupro_cflow(heats, masks), abs=1e-9)


def test_perfect_and_worst_maps() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[2:4, 2:6] = True
    heat = mask.astype(np.float32)
    good = np.zeros((8, 8), np.bool_)
    assert count([heat, heat * 0], [mask, good]).measure() == PixelMetrics(1.0, 1.0, 1.0, None)
    worst = count([-heat, heat * 0], [mask, good]).measure()
    assert worst.auroc == 0
    assert worst.aupro == 0


def test_a_class_that_is_missing_gives_no_number() -> None:
    heat = np.ones((4, 4), np.float32)
    nothing = PixelMetrics(None, None, None, None)
    assert count([heat], [np.zeros((4, 4), np.bool_)]).measure() == nothing
    assert PixelCounts().measure() == nothing
    everywhere = count([heat], [np.ones((4, 4), np.bool_)]).measure()
    assert everywhere == nothing


@pytest.mark.parametrize("shape", ["normal", "saturated", "heavy"])
def test_counted_metrics_are_right_to_the_stated_resolution(shape: str) -> None:
    rng = np.random.default_rng(1)
    heats, masks = scene(rng, 40, 64)
    if shape == "saturated":  # crowded below 3, as a likelihood map of three levels can be
        heats = [(3 - np.exp(-3 * h)).astype(np.float32) for h in heats]
    elif shape == "heavy":
        heats = [np.sinh(3 * h) for h in heats]
    counts = count(heats, masks, pilot_pixels=20 * 64 * 64)
    assert len(counts.pilot) == 0
    values, truth = (
        np.concatenate([h.ravel() for h in heats]),
        np.concatenate([m.ravel() for m in masks]),
    )
    got = counts.measure()
    assert 0 < counts.resolution < 1e-4
    assert abs(got.auroc - roc_auc_score(truth, values)) <= counts.resolution
    assert got.average_precision == pytest.approx(average_precision_score(truth, values), abs=2e-4)
    exact = count(heats, masks, intervals=2**18).measure()  # one interval per distinct value
    assert got.aupro == pytest.approx(exact.aupro, abs=1e-4)
    assert got.aupro_cflow == pytest.approx(exact.aupro_cflow, abs=5e-3)


def test_labels_are_measured_apart() -> None:
    heats, masks = scene(np.random.default_rng(8), 6, 16)
    labels = ["good" if not m.any() else f"kind{i % 2}" for i, m in enumerate(masks)]
    counts = PixelCounts()
    for i, (heat, mask) in enumerate(zip(heats, masks, strict=True)):
        counts.add(i, labels[i], heat, mask if mask.any() else None)
    counts.finish()
    chosen = [i for i in range(6) if labels[i] in ("good", "kind0")]
    alone = count([heats[i] for i in chosen], [masks[i] for i in chosen]).measure()
    assert counts.measure({"good", "kind0"}).auroc == pytest.approx(alone.auroc)
    assert counts.measure({"good", "kind0"}).aupro == pytest.approx(alone.aupro)


def test_memory_does_not_grow_with_the_maps() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((128, 128), np.bool_)
    mask[10:20, 10:20] = True

    def peak(images: int) -> int:
        tracemalloc.start()
        counts = PixelCounts(pilot_pixels=8 * 128 * 128, intervals=2**12)
        for i in range(images):
            counts.add(i, "hole", rng.normal(size=mask.shape).astype(np.float32), mask)
        counts.finish()
        assert counts.measure().auroc is not None
        _, largest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return largest

    maps_alone = 60 * 128 * 128 * 4
    assert peak(80) - peak(20) < maps_alone / 5


def test_regions_weigh_one_each_and_touch_diagonally() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[0, 0] = mask[1, 1] = True  # one region: 8 neighbours
    mask[4:8, 4:8] = True
    mask[5:7, 5:7] = False  # a ring of 12 pixels around a hole of 4
    regions = find_regions(mask)
    assert regions.count == 2
    assert regions.weight.sum() == pytest.approx(2)
    assert regions.weight[0, 0] == regions.weight[1, 1] == 0.5
    assert regions.weight[5, 5] == 0
    assert regions.filled[5, 5] == pytest.approx(1 / 12)
    assert regions.filled.sum() == pytest.approx(1 + 16 / 12)
    assert find_regions(np.zeros((3, 3), np.bool_)).count == 0
