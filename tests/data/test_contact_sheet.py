"""The contact sheet shows what training would make, whatever the size and number of parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sanflow.data.config import DataConfig, SynthConfig, TextureConfig
from sanflow.data.contact_sheet import contact_sheet
from sanflow.data.layout import Dataset, open_dataset
from sanflow.errors import ConfigError, DataError
from sanflow.imaging import Roi, read

from .conftest import Write

PAPER = (250, 250, 248)


@pytest.fixture
def dataset(tmp_path: Path, write: Write) -> Dataset:
    """Six good parts of noise, 40 x 30 pixels."""
    for i in range(6):
        write(f"parts/train/good/{i}.png", height=30, width=40)
    return open_dataset(tmp_path / "parts", DataConfig())


def drawn(
    dataset: Dataset,
    out: Path,
    synth: SynthConfig | TextureConfig | None = None,
    data: DataConfig | None = None,
    size: tuple[int, int] = (32, 32),
    seed: int = 0,
    rows: int = 2,
) -> NDArray[np.uint8]:
    """The sheet, read back from its file."""
    path = out / "sheet.png"
    contact_sheet(dataset, data or DataConfig(), synth or SynthConfig(), *size, seed, path, rows)
    return read(path)


def runs(used: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, used.astype(int), 0]))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def panels(sheet: NDArray[np.uint8], side: int = 160) -> list[list[NDArray[np.uint8]]]:
    """The panels of each line: the places where columns of `side` pixels hold no paper."""
    inked = (sheet != PAPER).any(axis=2)
    tops = [r for r in runs(inked.mean(axis=1) > 0.7) if r[1] - r[0] == side]
    lefts = runs(inked[slice(*tops[0])].all(axis=0))
    return [[sheet[t:b, left:right] for left, right in lefts] for t, b in tops]


def test_each_part_stands_beside_one_anomaly_of_each_kind_and_its_mask(
    dataset: Dataset, tmp_path: Path
) -> None:
    lines = panels(drawn(dataset, tmp_path))
    assert [len(line) for line in lines] == [7, 7]
    for part, *pairs in lines:
        assert part.shape == (160, 160, 3)
        for image, mask in zip(pairs[::2], pairs[1::2], strict=True):
            assert set(np.unique(mask)) == {28, 255}
            inside = (mask == 255).all(axis=2)
            assert (image[~inside] == part[~inside]).all()
            assert (image[inside] != part[inside]).any()
    assert (lines[0][0] != lines[1][0]).any()  # another part in each line


def test_kinds_without_a_quota_are_left_out(dataset: Dataset, tmp_path: Path) -> None:
    lines = panels(drawn(dataset, tmp_path, SynthConfig(quotas=(5, 0, 0, 3))))
    assert [len(line) for line in lines] == [3, 3]


def test_a_large_input_is_shown_smaller_and_no_wider_than_its_shape(
    dataset: Dataset, tmp_path: Path
) -> None:
    lines = panels(drawn(dataset, tmp_path, size=(256, 512), rows=1), side=128)
    assert [panel.shape for panel in lines[0]] == [(128, 256, 3)] * 7


def test_the_same_seed_draws_the_same_sheet(dataset: Dataset, tmp_path: Path) -> None:
    first, again, other = (drawn(dataset, tmp_path, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_more_rows_than_parts_draws_every_part(dataset: Dataset, tmp_path: Path) -> None:
    assert len(panels(drawn(dataset, tmp_path, rows=99))) == len(dataset.train)


def test_the_region_of_interest_is_shown(dataset: Dataset, tmp_path: Path) -> None:
    whole = panels(drawn(dataset, tmp_path))[0][0]
    region = panels(drawn(dataset, tmp_path, data=DataConfig(roi=Roi(0, 0, 16, 16))))[0][0]
    assert (whole != region).any()


def test_names_in_any_script_are_no_obstacle(tmp_path: Path, write: Write) -> None:
    for i in range(3):
        write(f"零件/train/good/{'ß' * 60}{i}.png")
    sheet = drawn(open_dataset(tmp_path / "零件", DataConfig()), tmp_path)
    assert len(panels(sheet)) == 2


@pytest.mark.parametrize("change", [{"enabled": False}, {"quotas": (8, 0, 0, 0)}])
def test_nothing_to_draw_is_said(
    dataset: Dataset, tmp_path: Path, change: dict[str, object]
) -> None:
    synth = replace(SynthConfig(), **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing to draw"):
        drawn(dataset, tmp_path, synth)
    with pytest.raises(DataError, match="no training parts"):
        drawn(replace(dataset, train=()), tmp_path)
    assert not (tmp_path / "sheet.png").exists()


def test_textured_defects_stand_beside_their_soft_labels(dataset: Dataset, tmp_path: Path) -> None:
    lines = panels(drawn(dataset, tmp_path, TextureConfig(threshold=0.1)))
    assert [len(line) for line in lines] == [7, 7]
    labels = set()
    for part, *pairs in lines:
        for image, mask in zip(pairs[::2], pairs[1::2], strict=True):
            changed = (image != part).any(axis=2)
            assert not changed[mask[..., 0] == 28].any()
            labels |= set(np.unique(mask)) - {28}
    assert labels
    assert 28 + 227 // 2 <= min(labels) <= max(labels) < 255
