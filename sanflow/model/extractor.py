"""Feature extractors: torchvision's networks, cut after the last tap, frozen in eval mode.

A ResNet is tapped after a stage's last ReLU, MobileNetV3 at the raw output of a block's last
1x1 convolution (as CFLOW-AD does), MobileNetV2, for which nothing is published, at a block's end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torchvision.models as zoo
from torch import Tensor, nn

from .config import BOTTLENECKS, PyramidConfig

# Per family: for each stride the child of the network after which it is tapped, and its channels.
_RESNET = {4: ("layer1", 64), 8: ("layer2", 128), 16: ("layer3", 256), 32: ("layer4", 512)}
_MOBILENET = {
    "mobilenet_v2": {4: ("3", 24), 8: ("6", 32), 16: ("13", 96), 32: ("17", 320)},
    "mobilenet_v3_large": {4: ("3", 24), 8: ("6", 40), 16: ("12", 112), 32: ("15", 160)},
}


class Backbone(nn.Module):
    """A network of torchvision's, cut after its last tap, that weights are loaded into."""

    name: str
    taps: tuple[str, ...]
    """The children that are tapped."""
    prefix: str = ""
    """What torchvision's parameter names have before ours."""

    def weights_url(self) -> str:
        """Torchvision's first ImageNet weights."""
        return str(zoo.get_model_weights(self.name)["IMAGENET1K_V1"].url)

    def adapt(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of a weights file, in torchvision's names, as this network needs them."""
        return values


class Extractor(Backbone):
    """Maps (B, C_k, H_k, W_k) of a frozen network, one per tap, of images (B, 3, H, W)."""

    def __init__(self, name: str, body: nn.Sequential, taps: dict[str, int]) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.taps = tuple(taps)
        self.channels = tuple(taps.values())
        self.prefix = "features." if name in _MOBILENET else ""
        self.projected = name == "mobilenet_v3_large"
        self.freeze()

    def freeze(self) -> None:
        """No gradients and fixed BatchNorm statistics, whatever `train()` says."""
        self.frozen = True
        self.requires_grad_(False).train(False)

    def thaw(self) -> None:
        """Let the network learn (the pretext stage); `freeze` ends it."""
        self.frozen = False
        self.requires_grad_(True).train(True)

    def train(self, mode: bool = True) -> Extractor:
        """Stay in eval mode unless thawed."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Tapped maps, fine to coarse."""
        maps = []
        for blocks in self.stages():
            x, tap = advance(blocks.values(), x, self.projected)
            maps.append(tap)
        return maps

    def stages(self) -> list[dict[str, nn.Module]]:
        """What leads to each tap, fine to coarse: blocks by name, of which the last is tapped."""
        stages: list[dict[str, nn.Module]] = [{}]
        for name, block in self.body.named_children():
            stages[-1][name] = block
            if name in self.taps and len(stages) < len(self.taps):
                stages.append({})
        return stages


def advance(blocks: Iterable[nn.Module], x: Tensor, projected: bool) -> tuple[Tensor, Tensor]:
    """The blocks' output, and what is tapped: the same, or the last one's raw projection."""
    *before, last = blocks
    for block in before:
        x = block(x)
    if projected:
        return _with_projection(last, x)
    x = last(x)
    return x, x


def build_extractor(
    name: str, taps: Sequence[int], padding: str = "reflect", stride_on: str = "3x3"
) -> Extractor:
    """The network `name` with random weights, tapped at the strides `taps` (4, 8, 16, 32)."""
    model = zoo.get_model(name, weights=None)
    if name in _MOBILENET:
        table = _MOBILENET[name]
        children = OrderedDict(model.features.named_children())
    else:
        widening = 4 if name in BOTTLENECKS else 1
        table = {s: (n, c * widening) for s, (n, c) in _RESNET.items()}
        children = OrderedDict(model.named_children())
        if padding == "reflect":
            _reflect(model)
        if stride_on == "1x1":
            _stride_first(model)
    names = list(children)
    kept = names[: names.index(table[max(taps)][0]) + 1]
    body = nn.Sequential(OrderedDict((n, children[n]) for n in kept))
    return Extractor(name, body, dict(table[s] for s in taps))


def extractor_of(config: PyramidConfig) -> Extractor:
    """The extractor a model's configuration asks for, with random weights."""
    return build_extractor(config.extractor, config.taps, config.padding, config.stride_on)


def _with_projection(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """An inverted residual's output and the raw output of its last convolution."""
    layers = cast(nn.Sequential, block.block)
    projection = cast(nn.Sequential, layers[-1])
    raw = projection[0](layers[:-1](x))
    out = projection[1](raw)  # its BatchNorm; no activation follows
    return (out + x if block.use_res_connect else out), raw


def _reflect(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and any(cast("tuple[int, int]", module.padding)):
            module.padding_mode = "reflect"


def _stride_first(model: nn.Module) -> None:
    """ResNet's first version: a stage's stride sits on its first 1x1 convolution."""
    for name in ("layer2", "layer3", "layer4"):
        block = model.get_submodule(f"{name}.0")
        cast(nn.Conv2d, block.conv1).stride = (2, 2)
        cast(nn.Conv2d, block.conv2).stride = (1, 1)
