"""Demo parts: the layout, the same bytes every time, and masks that lie where the defect is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sanflow.data.config import DataConfig
from sanflow.data.demo_parts import DEFECTS, make_demo_parts, photograph
from sanflow.data.layout import open_dataset
from sanflow.errors import InputError
from sanflow.imaging import read, read_mask

SIZE = 96


def test_the_layout_is_mvtec_with_a_mask_for_every_defect(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    root = tmp_path / "parts"
    make_demo_parts(
        root, train=4, good=2, per_defect=1, size=SIZE, progress=lambda a, b: seen.append((a, b))
    )
    dataset = open_dataset(root, DataConfig(calibrate_fraction=0.5))
    assert dataset.layout == "mvtec"
    assert len(dataset.train) == len(dataset.calibrate) == 2
    assert sorted(s.label for s in dataset.test) == sorted(["good", "good", *DEFECTS])
    for sample in dataset.test:
        assert (sample.mask is None) == (sample.label == "good")
        if sample.mask is not None:
            assert read_mask(sample.mask).shape == read(sample.path).shape[:2] == (SIZE, SIZE)
    assert seen[-1] == (len(seen), 6 + len(DEFECTS))
    with pytest.raises(InputError, match="is not empty"):
        make_demo_parts(root, train=1, good=1, per_defect=1, size=SIZE)


def test_the_same_seed_gives_the_same_part() -> None:
    image, mask = photograph("scratch", (3, 1), SIZE)
    again, same = photograph("scratch", (3, 1), SIZE)
    assert np.array_equal(image, again)
    assert np.array_equal(mask, same)
    other, _ = photograph("scratch", (4, 1), SIZE)
    assert not np.array_equal(image, other)


@pytest.mark.parametrize("kind", DEFECTS)
def test_the_mask_marks_what_differs_from_the_same_part_without_the_defect(kind: str) -> None:
    """Good and defective parts share their first random draws, so the part itself is the same."""
    changes = []
    for seed in range(4):
        image, mask = photograph(kind, (seed, 9), SIZE)
        whole, _ = photograph("good", (seed, 9), SIZE)
        assert 0 < mask.mean() < 0.15
        change = np.abs(image.astype(int) - whole.astype(int)).max(axis=2)
        changes.append(change[mask].mean() / change[~mask].mean())
    assert np.median(changes) > 2, changes


def test_good_parts_differ_and_are_neither_dark_nor_blown_out() -> None:
    parts = [photograph("good", (seed, 0), SIZE) for seed in range(4)]
    for image, mask in parts:
        assert not mask.any()
        assert 60 < image.mean() < 190
        assert (image == 255).mean() < 0.02
    assert len({image.tobytes() for image, _ in parts}) == 4
