"""The study that the documentation shows is one that can be run."""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from sanflow.sweep.config import DataEntry, SweepConfig, read_sweep
from sanflow.sweep.plan import plan


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    """docs/sweep.md"""
    return (repository / "docs" / "sweep.md").read_text("utf-8")


def test_the_example_is_planned(page: str, parts: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n# study.toml\n(.*?)^```", page, re.S | re.M)
    (tmp_path / "study.toml").write_text(text, "utf-8")
    for name in ("parts", "mvtec_anomaly_detection/bottle", "mvtec_anomaly_detection/screw"):
        shutil.copytree(parts, tmp_path / name)
    cells = plan(read_sweep(tmp_path / "study.toml"))
    assert len(cells) == 4 * 3 * 3
    assert {c.config.model.blocks for c in cells if c.method == "cflow"} == {6}
    assert {c.config.method for c in cells} == {c.method for c in cells}
    assert {c.config.optim.epochs for c in cells} == {12}


def test_every_field_is_in_the_tables(page: str) -> None:
    names = {f.name for kind in (SweepConfig, DataEntry) for f in fields(kind)} - {"data"}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_the_ablations_that_it_names_are_presets(page: str) -> None:
    (listed,) = re.findall(r'presets = \[("own".*?)\]', page, re.S)
    names = re.findall(r'"([^"]+)"', listed)
    assert len(names) == 11
    from sanflow.training.presets import PRESETS

    assert set(names) - {"own"} <= set(PRESETS)
