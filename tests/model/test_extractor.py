"""Every extractor's taps, their padding, and that nothing moves a frozen one."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as zoo
from torch import nn

from sanflow.model.config import EXTRACTORS
from sanflow.model.extractor import Extractor, build_extractor

CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "wide_resnet50_2": (256, 512, 1024, 2048),
    "wide_resnet101_2": (256, 512, 1024, 2048),
    "mobilenet_v2": (24, 32, 96, 320),
    "mobilenet_v3_large": (24, 40, 112, 160),
}
STRIDES = (4, 8, 16, 32)


def random_statistics(model: nn.Module) -> None:
    """BatchNorm statistics that are not those of a fresh network, so that mistakes show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_tap_shapes(name: str) -> None:
    with torch.device("meta"):  # shapes alone: the wide networks are large
        extractor = build_extractor(name, STRIDES)
        maps = extractor(torch.empty(2, 3, 64, 96))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(CHANNELS[name], STRIDES, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected
    assert extractor.channels == CHANNELS[name]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_large"])
def test_stages_after_the_last_tap_are_cut(name: str) -> None:
    cut, whole = build_extractor(name, (8,)), build_extractor(name, STRIDES)
    assert len(cut.state_dict()) < len(whole.state_dict())
    cut.load_state_dict({k: v for k, v in whole.state_dict().items() if k in cut.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(cut(x), whole(x)[1:2])


def test_resnet_with_zero_padding_is_torchvisions() -> None:
    model = zoo.resnet18()
    random_statistics(model)
    extractor = build_extractor("resnet18", (8, 16), padding="zeros")
    names = {f"body.{k}": v for k, v in model.state_dict().items()}
    extractor.load_state_dict({k: v for k, v in names.items() if k in extractor.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    model.eval()
    stem = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x)))))
    layer2 = model.layer2(stem)
    torch.testing.assert_close(extractor(x), [layer2, model.layer3(layer2)])


def test_mobilenet_v3_taps_the_projection_before_its_batch_norm() -> None:
    model = zoo.mobilenet_v3_large()
    random_statistics(model)
    raw: list[torch.Tensor] = []
    for index in (6, 12, 15):
        model.features[index].block[-1][0].register_forward_hook(lambda *a: raw.append(a[2]))
    extractor = build_extractor("mobilenet_v3_large", (8, 16, 32))
    names = {f"body.{k.removeprefix('features.')}": v for k, v in model.state_dict().items()}
    extractor.load_state_dict({k: v for k, v in names.items() if k in extractor.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    model.eval()(x)
    torch.testing.assert_close(extractor(x), raw)


def test_reflect_padding_reaches_every_padded_convolution_and_nothing_else() -> None:
    def modes(extractor: Extractor) -> set[tuple[bool, str]]:
        convolutions = [m for m in extractor.modules() if isinstance(m, nn.Conv2d)]
        return {(any(m.padding), m.padding_mode) for m in convolutions}

    assert modes(build_extractor("resnet18", (8,))) == {(True, "reflect"), (False, "zeros")}
    assert modes(build_extractor("resnet18", (8,), padding="zeros")) == {
        (True, "zeros"),
        (False, "zeros"),
    }
    assert (True, "zeros") in modes(build_extractor("mobilenet_v2", (8,)))
    # A constant image has no border under reflection; under zeros it has one.
    flat = torch.ones(1, 3, 64, 64)
    for padding, uniform in (("reflect", True), ("zeros", False)):
        (maps,) = build_extractor("resnet18", (8,), padding)(flat)
        assert torch.allclose(maps, maps[:, :, :1, :1].expand_as(maps), atol=1e-4) is uniform


def test_stride_can_sit_on_the_first_convolution() -> None:
    x = torch.randn(1, 3, 64, 64)
    late, early = (build_extractor("resnet50", (4, 8), stride_on=s) for s in ("3x3", "1x1"))
    early.load_state_dict(late.state_dict())
    assert torch.equal(late(x)[0], early(x)[0])
    assert late(x)[1].shape == early(x)[1].shape
    assert not torch.allclose(late(x)[1], early(x)[1])
    first = early.body.layer2[0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))


def test_frozen_until_thawed() -> None:
    extractor = build_extractor("resnet18", (8,))
    before = {k: v.clone() for k, v in extractor.state_dict().items()}
    extractor.train()
    (maps,) = extractor(torch.randn(2, 3, 64, 64))
    assert not maps.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in extractor.state_dict().items())
    extractor.thaw()
    (maps,) = extractor(torch.randn(2, 3, 64, 64))
    assert maps.requires_grad
    assert not torch.equal(extractor.body.bn1.running_mean, before["body.bn1.running_mean"])
    extractor.freeze()
    assert not extractor.train().body.bn1.training
