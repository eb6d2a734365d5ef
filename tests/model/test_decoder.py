"""The pixelwise classifier: its size, its enlargements, the taps it joins."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sanflow.model.decoder import Double, PixelClassifier


def maps(channels: tuple[int, ...], taps: tuple[int, ...], side: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, c, side // s, side // s) for c, s in zip(channels, taps, strict=True)]


def test_size_and_cost_on_a_wide_resnet_are_the_references() -> None:
    with torch.device("meta"):
        decoder = PixelClassifier((512, 1024, 2048), (8, 16, 32), 256, 256)
    assert round(sum(p.numel() for p in decoder.parameters()) / 1e6, 2) == 7.80
    macs = []

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        macs.append(module.weight[0].numel() * out.numel())

    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    taps = [t.to("meta") for t in maps((512, 1024, 2048), (8, 16, 32), 256)]
    assert decoder.eval()(taps).shape == (1, 1, 256, 256)
    assert round(sum(macs) / 1e9, 3) == 3.847


@pytest.mark.parametrize("cubic", [True, False])
def test_enlargement_is_torchs_resize(cubic: bool) -> None:
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    mode = "bicubic" if cubic else "bilinear"
    expected = F.interpolate(x, (10, 14), mode=mode, align_corners=True)
    torch.set_default_dtype(torch.float64)
    try:
        double = Double(5, 7, cubic=cubic)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(double(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
@pytest.mark.parametrize("taps", [(4, 8, 16), (8, 16, 32), (8, 16), (4, 16), (16,), (32,)])
def test_it_reaches_every_pixel_from_any_taps(kind: str, taps: tuple[int, ...]) -> None:
    channels = tuple(4 * s for s in taps)
    decoder = PixelClassifier(channels, taps, 64, 128, kind).eval()
    features = [torch.randn(2, c, 64 // s, 128 // s) for c, s in zip(channels, taps, strict=True)]
    for feature in features:
        feature.requires_grad_(True)
    logits = decoder(features)
    assert logits.shape == (2, 1, 64, 128)
    logits.sum().backward()
    assert all(bool(feature.grad.abs().sum() > 0) for feature in features)


def test_padding_is_the_extractors() -> None:
    for padding in ("reflect", "zeros"):
        decoder = PixelClassifier((8, 16), (8, 16), 32, 32, "basic", padding)
        found = {
            m.padding_mode for m in decoder.modules() if getattr(m, "kernel_size", 0) == (3, 3)
        }
        assert found == {padding}
