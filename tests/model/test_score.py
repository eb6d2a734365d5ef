"""The anomaly map and score against their formulae."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from sanflow.model.config import SanflowConfig
from sanflow.model.score import anomaly_map, gaussian, image_score, upsample

CONFIG = SanflowConfig(extractor="resnet18", taps=(8, 16), height=32, width=48)


def levels_of(seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Log-likelihoods of two levels for three images, and their maxima."""
    generator = torch.Generator().manual_seed(seed)
    levels = [-torch.rand(3, 32 // s, 48 // s, generator=generator) for s in (8, 16)]
    return levels, torch.stack([level.max() for level in levels])


def test_upsampling_aligns_corners_and_is_linear_between() -> None:
    maps = torch.rand(1, 4, 6)
    ours = upsample(maps, 32, 48)[0]
    rows, columns = torch.linspace(0, 3, 32), torch.linspace(0, 5, 48)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).numpy()
    exact = RegularGridInterpolator((range(4), range(6)), maps[0].numpy())(grid.clip(0, [3, 5]))
    torch.testing.assert_close(ours.double(), torch.from_numpy(exact), rtol=0, atol=1e-6)
    assert ours[0, 0] == maps[0, 0, 0]
    assert ours[-1, -1] == maps[0, -1, -1]


def test_likelihood_fusion_is_levels_minus_the_sum_of_likelihoods() -> None:
    levels, level_max = levels_of()
    maps = anomaly_map(levels, level_max, CONFIG)
    parts = [
        upsample(torch.exp(level - m), 32, 48) for level, m in zip(levels, level_max, strict=True)
    ]
    torch.testing.assert_close(maps, 2 - sum(parts))
    assert maps.min() >= 0
    assert maps.max() < 2


def test_log_likelihood_fusion_does_not_saturate() -> None:
    levels, level_max = levels_of()
    config = replace(CONFIG, fusion="log_likelihood")
    for far, farther in ((1e3, 2e3),):
        weak, strong = ([level - d for level in levels] for d in (far, farther))
        assert torch.equal(
            anomaly_map(weak, level_max, CONFIG), anomaly_map(strong, level_max, CONFIG)
        )
        a, b = anomaly_map(weak, level_max, config), anomaly_map(strong, level_max, config)
        torch.testing.assert_close(b - a, torch.full_like(a, 2 * (farther - far)))


def test_less_likely_is_more_anomalous_there_and_only_there() -> None:
    levels, level_max = levels_of()
    before = anomaly_map(levels, level_max, CONFIG)
    levels[0] = levels[0].clone()
    levels[0][1, 2, 3] -= 1
    change = anomaly_map(levels, level_max, CONFIG) - before
    assert change.min() >= 0
    assert not change[[0, 2]].any()
    row, column = divmod(int(change[1].argmax()), 48)
    assert abs(row - 2 * 31 / 3) <= 1
    assert abs(column - 3 * 47 / 5) <= 1


def test_scores() -> None:
    maps = torch.rand(3, 32, 48)
    assert torch.equal(image_score(maps, CONFIG), maps.flatten(1).max(dim=1).values)
    config = replace(CONFIG, image_score="top", top_fraction=0.01)
    expected = maps.flatten(1).sort(dim=1).values[:, -15:].mean(dim=1)  # 15 of 1536 pixels
    torch.testing.assert_close(image_score(maps, config), expected)
    single = replace(config, top_fraction=1e-9)
    torch.testing.assert_close(image_score(maps, single), image_score(maps, CONFIG))


@pytest.mark.parametrize("fusion", ["likelihood", "log_likelihood"])
def test_value_above_the_stored_maximum_is_harmless(fusion: str) -> None:
    levels, level_max = levels_of()
    maps = anomaly_map(levels, level_max - 0.5, replace(CONFIG, fusion=fusion))  # type: ignore[arg-type]
    assert maps.isfinite().all()
    assert maps.min() < 0


def test_a_pooled_level_counts_its_weight() -> None:
    config = SanflowConfig(taps=(8, 16), pools=(1,), pool_weight=3.0, height=64, width=64)
    levels = [torch.zeros(2, 8, 8), torch.zeros(2, 4, 4), torch.tensor([0.0, -2.0]).view(2, 1, 1)]
    maps = anomaly_map(levels, torch.zeros(3), config)
    torch.testing.assert_close(maps[0], torch.zeros(64, 64))
    torch.testing.assert_close(maps[1], torch.full((64, 64), 3 * (1 - math.exp(-2.0))))
    assert config.ceiling == 5


def test_the_map_is_smoothed_as_opencv_does() -> None:
    levels, level_max = levels_of()
    plain = anomaly_map(levels, level_max, CONFIG)
    maps = anomaly_map(levels, level_max, replace(CONFIG, map_sigma=2.0))
    for found, before in zip(maps, plain, strict=True):
        smoothed = cv2.GaussianBlur(before.numpy(), (17, 17), 2.0, borderType=cv2.BORDER_REPLICATE)
        torch.testing.assert_close(found, torch.from_numpy(smoothed), rtol=0, atol=1e-6)
    assert maps.max() < plain.max()


def test_smoothing_leaves_what_is_the_same_everywhere() -> None:
    """So that a pooled level of one cell may be added after it, and the ceiling holds."""
    for length, sigma in ((32, 4.0), (48, 0.3), (40, 5.0)):
        matrix = gaussian(length, sigma, torch.zeros(0, dtype=torch.float64))
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(length, dtype=torch.float64))
        assert matrix.min() >= 0


@pytest.mark.parametrize("sigma", [-1.0, 4.1, math.nan])
def test_a_sigma_that_no_map_can_have(sigma: float) -> None:
    with pytest.raises(ValueError, match="map_sigma"):
        replace(CONFIG, map_sigma=sigma)
