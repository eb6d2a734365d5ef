"""The table's figures against NumPy, its published column against the papers' own means."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sanflow.sweep.config import Sweep
from sanflow.sweep.leaderboard import write_leaderboard
from sanflow.sweep.papers import find_paper, papers
from sanflow.sweep.plan import Cell, plan
from sanflow.sweep.table import MEAN, Finished, rows_of

from .conftest import result

SEEDS, CATEGORIES = (0, 1, 2), ("bottle", "cable")


@pytest.fixture
def cells(tiny: Sweep) -> list[Cell]:
    """Two methods, two categories, three seeds."""
    first = plan(tiny)[0]
    data = replace(first.config.data, layout="mvtec-ad")
    first = replace(first, data="mine", config=replace(first.config, data=data))
    return [
        replace(first, category=category, method=method, seed=seed)
        for category in CATEGORIES
        for method in ("sanflow", "cflow")
        for seed in SEEDS
    ]


@pytest.fixture
def finished(cells: list[Cell]) -> list[Finished]:
    """Every cell with figures of its own."""
    rng = np.random.default_rng(0)
    return [Finished(c, result(image=rng.uniform(), pixel=rng.uniform())) for c in cells]


def test_mean_and_deviation_are_over_seeds_of_the_mean_over_categories(
    cells: list[Cell], finished: list[Finished]
) -> None:
    rows = rows_of(finished, cells)
    assert [(r.category, r.method) for r in rows] == [
        (c, m) for c in (*CATEGORIES, MEAN) for m in ("sanflow", "cflow")
    ]
    for row in rows:
        own = [f for f in finished if f.cell.method == row.method]
        table = np.array(
            [
                [
                    f.result.metrics["image"]
                    for f in own
                    if f.cell.seed == s and chosen(f, row.category)
                ]
                for s in SEEDS
            ],
            float,
        )
        means = table.mean(axis=1)
        spread = row.metrics["image"]
        assert spread is not None
        assert spread.mean == pytest.approx(means.mean(), abs=1e-12)
        assert spread.deviation == pytest.approx(means.std(ddof=1), abs=1e-12)
        assert spread.seeds == 3


def chosen(found: Finished, category: str) -> bool:
    """Whether a cell belongs to the row of this category."""
    return category in (MEAN, found.cell.category)


def test_a_seed_that_lacks_a_category_is_left_out_of_the_mean(
    cells: list[Cell], finished: list[Finished]
) -> None:
    lost = finished[0]
    rows = rows_of(finished[1:], cells)
    row = next(r for r in rows if r.category == MEAN and r.method == lost.cell.method)
    assert row.missing == 1
    assert row.metrics["image"] is not None
    assert row.metrics["image"].seeds == 2
    whole = next(r for r in rows_of(finished, cells) if (r.category, r.method) == (MEAN, "cflow"))
    assert next(r for r in rows if (r.category, r.method) == (MEAN, "cflow")) == whole


def test_one_seed_has_no_deviation_and_no_masks_no_pixel_figures(cells: list[Cell]) -> None:
    (row,) = rows_of([Finished(cells[0], result(pixel=None))], cells[:1])
    assert row.metrics["image"] is not None
    assert row.metrics["image"].deviation is None
    assert row.metrics["pixel"] is None


def test_the_files(cells: list[Cell], finished: list[Finished], tmp_path: Path) -> None:
    write_leaderboard(finished, cells, tmp_path)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6
    rows = {(r.category, r.method): r for r in rows_of(finished, cells)}
    for line in lines:
        spread = rows[line["category"], line["method"]].metrics["image"]
        assert spread is not None
        assert float(line["image"]) == spread.mean  # to the last bit
    with (tmp_path / "cells.csv").open(newline="") as file:
        assert [c["cell"] for c in csv.DictReader(file)] == [f.cell.name for f in finished]
    text = (tmp_path / "leaderboard.md").read_text("utf-8")
    assert "## mine, mean of all categories" in text
    assert "98.7 / 98.5 / 94.0 (wide_resnet50_2)" in text
    assert "the weights of the last epoch" in text
    page = (tmp_path / "leaderboard.html").read_text("utf-8")
    assert page.count('class="best"') >= 3
    assert "<script" not in page
    best = max(r.metrics["image"].mean for r in rows.values() if r.category == MEAN)  # type: ignore[union-attr]
    assert f"{best:.4f}" in page


def test_the_best_method_stands_first(
    cells: list[Cell], finished: list[Finished], tmp_path: Path
) -> None:
    write_leaderboard(finished, cells, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line[0:1] == "|" and " ± " in line]
    assert len(lines) == 6
    values = [float(line.split("|")[3].split("±")[0]) for line in lines]
    assert all(values[i] >= values[i + 1] for i in range(0, len(values), 2))


def test_an_empty_leaderboard_says_so(cells: list[Cell], tmp_path: Path) -> None:
    write_leaderboard([], cells, tmp_path)
    assert "0 of 12 cells are done" in (tmp_path / "leaderboard.md").read_text("utf-8")


# Published figures


def test_the_mean_of_the_categories_is_the_published_mean() -> None:
    """A figure that was copied wrongly would move its mean."""
    tables = defaultdict(list)
    means = {}
    for paper in papers():
        key = (paper.data, paper.method, paper.extractor)
        if paper.category:
            tables[key].append(paper)
        elif not paper.preset:
            means.setdefault(key, paper)
    assert len(tables) == 4
    for key, found in tables.items():
        for metric in ("image", "pixel", "aupro"):
            values = [getattr(p, metric) for p in found]
            if None not in values:
                assert np.mean(values) == pytest.approx(getattr(means[key], metric), abs=0.1)


def test_figures_are_percent_and_none_is_there_twice() -> None:
    for paper in papers():
        values = [v for v in (paper.image, paper.pixel, paper.aupro) if v is not None]
        assert values
        assert all(40 < v <= 100 for v in values)
    keys = [(p.data, p.method, p.category, p.extractor, p.preset) for p in papers()]
    assert len(set(keys)) == len(keys)


def test_the_nearest_figure(cells: list[Cell]) -> None:
    cell = cells[0]
    found = find_paper(cell, "bottle")
    assert found is not None
    assert (found.image, found.pixel, found.aupro) == (100.0, 98.6, 92.7)
    ablation = find_paper(replace(cell, preset="1c"), MEAN)
    assert ablation is not None
    assert ablation.aupro == 93.8
    cflow = find_paper(replace(cell, method="cflow"), MEAN)
    assert cflow is not None
    assert cflow.extractor == cell.config.model.extractor == "resnet18"
    assert find_paper(replace(cell, method="mine"), MEAN) is None
