"""The image-level methods: groups of tokens, score, loss, and what training leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sanflow.errors import ConfigError
from sanflow.model.config import LossConfig
from sanflow.model.extractor import Extractor
from sanflow.model.foad_mfff import FOADMFFF
from sanflow.model.method import Draw
from sanflow.model.sanf_ad import SANFAD, as_published
from sanflow.model.token_config import FoadMfffConfig, SanfAdConfig
from sanflow.model.tokens import TokenMethod

TINY: dict[str, Any] = {"extractor": "resnet18", "height": 96, "width": 96, "couplings": 2}


def made(name: str, **changes: Any) -> TokenMethod:
    values = {**TINY, **changes}
    if name == "sanf-ad":
        return SANFAD(SanfAdConfig(**values)).eval()
    return FOADMFFF(FoadMfffConfig(**values)).eval()


def images(batch: int = 2, side: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, side, side, 3), generator=generator, dtype=torch.uint8)


BOTH = pytest.mark.parametrize("name", ["sanf-ad", "foad-mfff"])


@BOTH
def test_the_map_is_the_score_everywhere_and_the_score_is_of_one_image(name: str) -> None:
    model = made(name)
    with torch.no_grad():
        score, heat = model(images())
        alone, _ = model(images()[1:])
    assert score.shape == (2,)
    assert torch.equal(heat, score[:, None, None].expand(2, 96, 96))
    assert torch.allclose(score[1:], alone, rtol=1e-6)


@BOTH
def test_score_and_loss_in_numpy(name: str) -> None:
    model = made(name).double()
    observed = model.observe(images())
    z, log_det = (t.detach().numpy() for t in model.flow(observed.first, observed.patches))
    d = z.shape[1]
    np.testing.assert_allclose(model(images())[0].detach().numpy(), (z**2).sum(1) / d, rtol=1e-12)
    total, parts = model.loss(observed, torch.zeros(2, 96, 96), Draw(), LossConfig())
    assert float(total.detach()) == pytest.approx(
        np.mean((z**2).sum(1) / 2 - d * log_det) / d, rel=1e-12
    )
    assert parts["loss"] == pytest.approx(parts["square"] + parts["volume"])


@BOTH
def test_all_of_the_flow_learns_and_nothing_of_the_extractor(name: str) -> None:
    model = made(name).train()
    total, _ = model.loss(model.observe(images()), torch.zeros(2, 96, 96), Draw(), LossConfig())
    torch.autograd.backward(total)
    for parameter, value in model.named_parameters():
        if parameter.startswith("extractor."):
            assert value.grad is None
        else:
            assert value.grad is not None, parameter
            assert bool(value.grad.abs().sum() > 0), parameter


@BOTH
def test_standardised_tokens(name: str) -> None:
    model = made(name, feature_scale="standard")
    model.fit_feature_scale([images(4), images(4).flip(0)])
    observed = model.observe(images(4))
    assert torch.allclose(observed.first.mean(dim=0), torch.zeros(256), atol=1e-4)
    patches = observed.patches.flatten(0, 2)
    assert float(patches.mean(dim=0).abs().max()) < 1e-3
    if name == "foad-mfff":  # SANF-AD's are means of nine, which vary less
        assert float(patches.std(dim=0).median()) == pytest.approx(1, abs=0.05)


@BOTH
def test_the_seed_decides_everything_drawn(name: str) -> None:
    build = SANFAD if name == "sanf-ad" else FOADMFFF
    config = made(name).config
    one, same, other = (build(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not torch.equal(one["flow.order"], other["flow.order"])


def test_class_tokens_of_a_convolutional_extractor_are_means() -> None:
    model = made("sanf-ad")
    assert isinstance(model.extractor, Extractor)
    (maps,) = model.extractor(model.normalise(images()))
    assert torch.allclose(model.observe(images()).first, maps.mean(dim=(2, 3)), atol=1e-6)


def test_pooled_tokens() -> None:
    model = made("sanf-ad")
    patches = torch.randn(2, 5, 6, 9)
    groups = model.groups(patches)
    assert groups.shape == (2, 1, 6, 5)
    expected = patches[1, :, 3:6, 6:9].mean(dim=(1, 2))
    assert torch.allclose(groups[1, 0, 5], expected, atol=1e-6)


def test_the_published_layout_reads_tokens_as_channels() -> None:
    """In NumPy: reshape (n, d) to (d, h, w) without a transpose."""
    patches = torch.randn(1, 4, 6, 6)
    tokens = patches[0].numpy().reshape(4, 36).T
    assert np.array_equal(as_published(patches)[0].numpy(), tokens.reshape(-1).reshape(4, 6, 6))
    right, published = (made("sanf-ad", layout=kind) for kind in ("map", "compat"))
    assert not torch.allclose(right(images())[0], published(images())[0], rtol=1e-4)


def test_windows_hold_neighbours() -> None:
    model = made("foad-mfff")
    place = torch.arange(6 * 9).reshape(1, 1, 6, 9)
    windows = model.groups(place)[0, :, :, 0]
    assert windows.shape == (6, 9)
    assert windows[4].tolist() == [30, 31, 32, 39, 40, 41, 48, 49, 50]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sanf-ad", {"extractor": "vit_b_16", "height": 224, "width": 224}, "multiple of 48"),
        ("foad-mfff", {"window": 4}, "multiple of 64"),
        ("foad-mfff", {"window": 1}, "at least 2"),
        ("sanf-ad", {"pool": 0}, "pool 0"),
        ("sanf-ad", {"extractor": "resnet19"}, "vit_b_16"),
        ("sanf-ad", {"clamp": 0.0}, "clamp must be positive"),
        ("sanf-ad", {"stride_on": "1x1"}, "is for resnet50"),
        # The last stage's second convolution would mirror a single position.
        (
            "sanf-ad",
            {"stride": 32, "pool": 1, "height": 32, "width": 64},
            "32x64 must be at least 64",
        ),
    ],
)
def test_bad_values_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(name, **values)


@BOTH
def test_heads_that_do_not_share_the_channels_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.heads: 5 heads do not share the 128 channels"):
        made(name, heads=5)


def test_the_smallest_image_of_each_stride_scores() -> None:
    for stride, side in ((4, 32), (8, 32), (16, 32), (32, 64)):
        model = made("sanf-ad", stride=stride, pool=1, height=side, width=side)
        assert model(images(1, side))[0].isfinite().all()
