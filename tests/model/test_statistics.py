"""Running moments against NumPy, and what a scale does with them."""

from __future__ import annotations

import torch

from sanflow.model.statistics import FeatureScale, Moments


def test_moments_equal_those_of_all_values_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    # A large mean over a small deviation is what one-pass sums of squares get wrong.
    maps = 1e4 + torch.randn(9, 5, 3, 2, generator=generator, dtype=torch.float64)
    moments = Moments(5)
    for batch in maps.split([4, 1, 3, 1]):
        moments.update(batch)
    values = maps.transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean, values.mean(dim=1), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        moments.deviation(), values.std(dim=1, correction=0), rtol=1e-10, atol=0
    )


def test_scale_standardises_and_leaves_a_dead_channel_finite() -> None:
    maps = torch.randn(8, 3, 4, 4) * torch.tensor([5.0, 1.0, 0.0])[:, None, None] + 2
    moments, scale = Moments(3), FeatureScale(3)
    assert torch.equal(scale(maps), maps)
    moments.update(maps)
    scale.fit(moments)
    out = scale(maps)
    torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    deviation = out.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0, 1.0, 0.0]), rtol=1e-4, atol=1e-6)


def test_a_channel_that_is_hardly_ever_active_is_not_blown_up() -> None:
    maps = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[:, 2] = 0
    maps[0, 2, 0, 0] = 0.3
    moments, scale = Moments(3), FeatureScale(3)
    moments.update(maps)
    scale.fit(moments)
    assert scale(maps)[:, 2].abs().max() < 4


def test_moments_of_every_position_by_itself() -> None:
    maps = torch.randn(20, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    maps = maps * torch.arange(1.0, 13).view(3, 4) + torch.arange(12.0).view(3, 4)
    scale = FeatureScale(2, 3, 4)
    moments = scale.moments()
    for batch in maps.split([7, 13]):
        moments.update(batch)
    scale.fit(moments)
    out = scale(maps)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(2, 3, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(dim=0, correction=0), torch.ones(2, 3, 4))


def test_a_background_that_never_changes_does_not_set_the_scale() -> None:
    """Most positions are the same in every image, some of them but for the last bit."""
    generator = torch.Generator().manual_seed(0)
    maps = 3 + 0.1 * torch.randn(20, 2, 4, 4, generator=generator)
    maps[:, :, :2] = 3
    maps[::2, :, 2] = 3 + 2**-22
    maps[1::2, :, 2] = 3
    scale = FeatureScale(2, 4, 4)
    moments = scale.moments()
    moments.update(maps)
    scale.fit(moments)
    out = scale(maps)
    deviation = out[:, :, 3].std(dim=0, correction=0)
    torch.testing.assert_close(deviation, torch.ones(2, 4))
    assert out[:, :, :3].abs().max() < 1e-3
