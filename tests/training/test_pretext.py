"""Teaching an extractor without weights: it learns, repeats itself, and ends frozen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanflow.config import OptimConfig, PretextConfig, RunConfig
from sanflow.data.config import DataConfig
from sanflow.data.demo_parts import make_demo_parts
from sanflow.data.layout import Dataset, open_dataset
from sanflow.errors import SanflowError
from sanflow.imaging import PixelPath
from sanflow.model.config import SanflowConfig
from sanflow.model.extractor import Extractor, build_extractor
from sanflow.training.log import Status
from sanflow.training.pretext import pixel_loss, teach

CONFIG = RunConfig(
    model=SanflowConfig(extractor="resnet18", taps=(4, 8), height=64, width=64, position_dim=8),
    pretext=PretextConfig(steps=12, batch=4, learning_rate=3e-3),
    optim=OptimConfig(workers=0),
    weights="none",
)
PIXELS = PixelPath(64, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("pretext") / "parts"
    make_demo_parts(root, train=12, good=1, per_defect=1, size=64)
    return open_dataset(root, DataConfig())


def fresh() -> Extractor:
    torch.manual_seed(0)
    return build_extractor("resnet18", (4, 8))


def test_it_learns_repeats_itself_and_ends_frozen(dataset: Dataset) -> None:
    seen: list[Status] = []
    first, second = fresh(), fresh()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    teach(first, dataset, PIXELS, CONFIG, seen.append)
    teach(second, dataset, PIXELS, CONFIG)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    changed = [n for n, v in first.state_dict().items() if not torch.equal(v, before[n])]
    assert any("running_mean" in name for name in changed)
    assert any("conv" in name for name in changed)
    assert first.frozen
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    losses = [status.loss for status in seen if status.loss is not None]
    assert len(losses) == CONFIG.pretext.steps
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_seed_matters(dataset: Dataset) -> None:
    config = replace(CONFIG, pretext=replace(CONFIG.pretext, steps=1))
    first, second = fresh(), fresh()
    teach(first, dataset, PIXELS, config)
    teach(second, dataset, PIXELS, replace(config, optim=OptimConfig(seed=1, workers=0)))
    assert not torch.equal(first.body.conv1.weight, second.body.conv1.weight)


def test_divergence_is_named_and_leaves_the_extractor_frozen(dataset: Dataset) -> None:
    extractor = fresh()
    config = replace(CONFIG, pretext=replace(CONFIG.pretext, learning_rate=1e30))
    with pytest.raises(SanflowError, match=r"teaching the extractor diverged: .* in step"):
        teach(extractor, dataset, PIXELS, config)
    assert extractor.frozen


def test_the_loss_is_least_for_the_truth() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True
    right = torch.where(masks[:, None, ::2, ::2], 20.0, -20.0)
    assert pixel_loss(right, masks) < 1e-6 < pixel_loss(torch.zeros_like(right), masks)
    assert pixel_loss(-right, masks) > 10
