"""The contract: every method by name, built from its configuration, and what a batch becomes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
import torch

from sanflow.model.config import SanflowConfig
from sanflow.model.method import Draw, Steps
from sanflow.model.methods import METHODS, build
from sanflow.model.sanflow import SANFlow

SMALL = SanflowConfig(
    extractor="resnet18", taps=(8, 16), height=64, width=64, position_dim=8, blocks=1, head_width=4
)


@pytest.mark.parametrize("name", METHODS)
def test_a_configuration_says_its_method_first(name: str) -> None:
    """schema.load chooses the class by this field."""
    config, _ = METHODS[name]
    assert fields(config)[0].name == "method"
    assert name in get_args(get_type_hints(config)["method"])


def test_the_seed_fixes_the_first_weights() -> None:
    one, same, other = (build(SMALL, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_batch_is_one_draw_of_everything() -> None:
    model = SANFlow(SMALL)
    (draw,) = model.draws(4, Steps())
    assert draw == model.whole() == Draw((None, None), (0, 1))


def test_fibres_take_each_position_once_level_after_level() -> None:
    model, generator = SANFlow(SMALL), torch.Generator().manual_seed(0)
    draws = list(model.draws(4, Steps(fibre=48), generator))
    assert [draw.levels for draw in draws] == [(0,)] * 5 + [(1,)]  # 64 and 16 positions, 12 each
    first: list[Any] = [draw.indices[0] for draw in draws[:5]]
    assert all(len(index) == 12 for index in first)
    assert len(set(torch.cat(first).tolist())) == 60
    (latent,) = model.latents(model.observe(images()), draws[5])
    assert latent.square.shape == (4, 12, 1)


def test_a_fibre_larger_than_a_level_takes_all_of_it() -> None:
    draws = list(SANFlow(SMALL).draws(1, Steps(fibre=256)))
    assert [len(draw.indices[0]) for draw in draws if draw.indices[0] is not None] == [64, 16]


def test_summaries_are_the_means_of_the_features() -> None:
    model = SANFlow(SMALL).eval()
    rows = model.summary(images())
    assert rows.shape == (4, 128 + 256)
    maps = model.features(model.normalise(images()))
    torch.testing.assert_close(rows[:, :128], maps[0].mean(dim=(2, 3)))


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 64, 64, 3), generator=generator, dtype=torch.uint8)
