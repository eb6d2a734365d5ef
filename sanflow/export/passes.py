"""Named exact simplifications: each takes one state of the inference model to the next.

A pass changes the state it is given and returns it. In float64 every pass keeps the
log-likelihoods; what it may do to latents is said in its docstring. A pass looks at each block for
itself and leaves alone what its equation does not cover.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ..model.likelihood import LOG_GAUSS
from ..model.statistics import FeatureScale
from .deploy import (
    Affine,
    Block,
    DeployModel,
    First,
    Gather,
    Level,
    Pixels,
    Stage,
    convolution,
)
from .head import Head
from .likelihood import Constant, Likelihood, Mean
from .naive import DenseHead, Factor, JoinedFirst, Rows, SumLikelihood


def pointwise(model: DeployModel) -> DeployModel:
    """Linear layers on rows of positions become 1x1 convolutions of maps."""
    for k, level in enumerate(model.levels):
        if isinstance(level, Rows):
            model.levels[k] = _maps(level.level)
    return model


def _maps(level: Level) -> Level:
    blocks = cast("list[Block]", list(level.blocks))
    rows = cast(JoinedFirst, blocks[0].first).code
    code = None if rows is None else rows.T.reshape(1, -1, *level.size)
    for block in blocks:
        first, last = cast(JoinedFirst, block.first), cast(Factor, block.last)
        first.layer = _pointwise(first.layer)
        first.code = code
        last.layer = _pointwise(last.layer)
        block.mix = _pointwise(block.mix)
        norm = cast(Affine, block.norm)
        block.norm = Affine(_channels(norm.scale), _channels(norm.offset))
    return level


def _pointwise(layer: nn.Module) -> nn.Conv2d:
    layer = cast(nn.Linear, layer)
    return convolution(layer.weight[:, :, None, None], layer.bias)


def _channels(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.view(-1, 1, 1)


def fold_condition(model: DeployModel) -> DeployModel:
    """What the first layer makes of the position code is the same for every image: a bias map.

    A separable map is stored as a row and a column; a zero-padded subnet's map is stored whole.
    """
    for _, block in _blocks(model):
        if isinstance(block.first, JoinedFirst):
            block.first = _folded_condition(block.first, block.passive)
    return model


def _folded_condition(first: JoinedFirst, passive: int) -> First:
    layer = cast(nn.Conv2d, first.layer)
    if first.code is None:
        return First(layer)
    padding = cast("tuple[int, int]", layer.padding)
    bias = F.conv2d(first.code, layer.weight[:, passive:], layer.bias, padding=padding)
    own = convolution(layer.weight[:, :passive].clone(), None, padding)
    rows, columns = bias[:, :, :, :1].clone(), bias[:, :, :1] - bias[:, :, :1, :1]
    separable = torch.allclose(rows + columns, bias, rtol=1e-12, atol=1e-12)
    return First(own, [rows, columns] if separable else [bias])


def gather_permutations(model: DeployModel) -> DeployModel:
    """A matrix that only permutes becomes a gather of channels; a soft rotation stays a product."""
    for _, block in _blocks(model):
        if isinstance(block.mix, nn.Conv2d) and block.mix.bias is None:
            matrix = block.mix.weight[:, :, 0, 0]
            if bool((matrix.count_nonzero(dim=1) == 1).all()) and bool((matrix.amax(1) == 1).all()):
                block.mix = Gather(matrix.argmax(dim=1))
    return model


def fold_factor(model: DeployModel) -> DeployModel:
    """The subnet's factor 0.1 lies in its last layer's weights and bias."""
    for _, block in _blocks(model):
        if isinstance(block.last, Factor):
            layer = cast(nn.Conv2d, block.last.layer)
            layer.weight.mul_(block.last.factor)
            cast(Tensor, layer.bias).mul_(block.last.factor)
            block.last = layer
    return model


def fold_norms(model: DeployModel) -> DeployModel:
    """Global scales, offsets and the features' standardisation vanish into weights and biases.

    Each channel is carried as x with y = d x + c. The scales d run forwards into the weights that
    read x. The offsets c run backwards: whatever wrote a channel last, a subnet's t or a rotation,
    writes it so that c = 0 where y2 exp(s) needs it and at the end. Only channels that nothing has
    written yet need a constant, added once where the features enter.
    """
    entries = model.features.entries
    for k, level in enumerate(cast("list[Level]", list(model.levels))):
        if any(isinstance(block.norm, Affine) for block in level.blocks):
            entries[k] = _fold_level(level, entries[k])
    return model


def _fold_level(level: Level, entry: nn.Module) -> nn.Module:
    """Fold a level's norms; returns what the features have to go through to enter it."""
    blocks = cast("list[Block]", list(level.blocks))
    norms = [cast(Affine, block.norm) for block in blocks]
    gains = [cast(Tensor, norm.scale).flatten() for norm in norms]
    ones = torch.ones_like(gains[0])
    local = isinstance(entry, FeatureScale) and entry.mean[0, 0].numel() > 1
    d = ones
    if isinstance(entry, FeatureScale) and not local:
        d = 1 / entry.deviation.flatten()
    before, start = [], d
    for block, gain in zip(blocks, gains, strict=True):
        before.append(d)
        d = gain * d
        if isinstance(block.mix, Gather):
            d = d[block.mix.order]
        elif isinstance(block.mix, nn.Conv2d):
            block.mix.weight.mul_(d.view(1, -1, 1, 1))
            d = ones
    c = torch.zeros_like(ones)
    for block, norm, gain, scale in list(zip(blocks, norms, gains, before, strict=True))[::-1]:
        offset = cast(Tensor, norm.offset).flatten()
        after = _before_mix(block.mix, c, offset, gain * scale)
        c = _fold_block(block, scale, (after - offset) / gain, level.size)
        block.norm = nn.Identity()
    level.norm = Affine(_channels(d), None)
    if isinstance(level.entry, nn.LayerNorm):  # its offset is a map already
        level.entry.bias.sub_(c.view(-1, 1, 1))
        return entry
    return _entry(entry, start, c, local)


def _before_mix(mix: nn.Module, c: Tensor, offset: Tensor, d: Tensor) -> Tensor:
    """The offsets pending before a block's mix, if those after it shall be `c`."""
    if isinstance(mix, Gather):
        return torch.empty_like(c).index_copy_(0, mix.order, c)
    if isinstance(mix, nn.Conv2d):  # its weights hold d already; R o joins its bias
        mix.bias = nn.Parameter((mix.weight[:, :, 0, 0] / d) @ offset - c, requires_grad=False)
        return offset
    return c


def _fold_block(block: Block, d: Tensor, after: Tensor, size: tuple[int, int]) -> Tensor:
    """Fold scales d before, and offsets `after`, a coupling; returns the offsets before it."""
    passive, active = block.passive, d.numel() - block.passive
    before = torch.cat((after[:passive], torch.zeros_like(after[passive:])))
    first, last = cast(First, block.first), cast(nn.Conv2d, block.last)
    layer = first.convolution
    weight, padding = layer.weight, cast("tuple[int, int]", layer.padding)
    if any(padding):  # zeros are padded to x, not to y: the constant's map ends at the border
        constant = before[:passive].view(1, -1, 1, 1).expand(1, -1, *size)
        first.add(F.conv2d(constant, weight, padding=padding))
    else:
        first.add((weight.flatten(1) @ before[:passive]).view(1, -1, 1, 1))
    layer.weight.mul_(d[:passive].view(1, -1, 1, 1))
    bias = cast(Tensor, last.bias)
    bias[active:] -= after[passive:]
    bias[active:] /= d[passive:]
    last.weight[active:] /= d[passive:].view(-1, 1, 1, 1)
    return before


def _entry(entry: nn.Module, d: Tensor, c: Tensor, local: bool) -> nn.Module:
    """x = (y - c) / d, where y is the standardised feature."""
    c, d = c.view(1, -1, 1, 1), d.view(1, -1, 1, 1)
    if local:
        scale = cast(FeatureScale, entry)
        return Affine(1 / scale.deviation, -scale.mean / scale.deviation - c)
    mean = entry.mean if isinstance(entry, FeatureScale) else torch.zeros_like(c)
    offset = -mean - c / d
    return Affine(None, offset) if offset.any() else nn.Identity()


def drop_last_mix(model: DeployModel) -> DeployModel:
    """||z||^2 is the same under any orthogonal matrix: latents come out before the last one.

    Where an estimated mean is taken from every channel of z, only a permutation keeps the sum.
    """
    centred = model.head.mean is not None
    for level in model.levels:
        if isinstance(level, Level):
            block = cast(Block, level.blocks[-1])
            if isinstance(block.mix, Gather) or (not centred and _orthogonal(block.mix)):
                block.mix = nn.Identity()
    return model


def _orthogonal(mix: nn.Module) -> bool:
    if not isinstance(mix, nn.Conv2d) or mix.bias is not None:
        return False
    matrix = mix.weight[:, :, 0, 0]
    # Rotations are stored in FP32.
    return torch.allclose(matrix @ matrix.T, torch.eye(len(matrix), dtype=matrix.dtype), atol=1e-5)


def freeze_likelihood(model: DeployModel) -> DeployModel:
    """Constants become one number per level, sums over channels weighted means of 1x1 convolutions.

    Latents keep the scale that was pending: it lies in the weights of mean(z^2).
    """
    config, old = model.config, cast(SumLikelihood, model.likelihood)
    squares: list[Mean] = []
    log_dets: list[Mean | Constant] = []
    centred = model.head.mean is not None
    constant = {"unit": 1.0, "fixed": config.prior_variance}.get(config.variance)
    for k, level in enumerate(cast("list[Level]", list(model.levels))):
        scale = cast(Tensor, cast(Affine, level.norm).scale).flatten()
        channels = scale.numel()
        active = channels - cast(Block, level.blocks[0]).passive
        weight = torch.ones_like(scale) if centred else scale**2
        if not centred:
            level.norm = nn.Identity()
        k0 = LOG_GAUSS - old.level_max[k]
        if config.scores_volume:
            k0 = k0 + cast(Tensor, level.log_scales).sum() / channels
        if constant is not None:
            weight = weight / constant
            k0 = k0 - 0.5 * torch.tensor(constant, dtype=scale.dtype).log()
        level.log_scales = None
        # Where nothing reads the log-determinants, they are gone from the graph.
        own = None if config.scores_volume or constant is None else -float(k0)
        squares.append(Mean(weight / (2 * channels), own))
        if config.scores_volume:
            share = torch.full((active,), -1 / channels, dtype=scale.dtype)
            log_dets.append(Mean(share, -float(k0)))
        elif own is None:
            log_dets.append(Constant(-k0))
    model.likelihood = Likelihood(config, squares, log_dets)
    return model


def fold_head(model: DeployModel) -> DeployModel:
    """BatchNorm lies in the convolutions, and they are computed only around what is sampled."""
    heads, size = model.head, (model.config.height, model.config.width)
    if isinstance(heads.spread, DenseHead):
        heads.spread = _folded_head(heads.spread, size)
    if isinstance(heads.mean, DenseHead):
        heads.mean = _folded_head(heads.mean, size)
    return model


def _folded_head(head: DenseHead, size: tuple[int, int]) -> Head:
    stages = list(head.middle)
    middle = [_fused(conv, norm) for conv, norm in zip(stages[::3], stages[1::3], strict=True)]
    return Head([cast(nn.Conv2d, head.first[0]), *middle, head.last], head.stride, *size)


def fold_batch_norms(model: DeployModel) -> DeployModel:
    """BatchNorms of extractor and classifier lie in their convolutions, not those behind a tap."""
    tapped = set()
    for stage in cast("list[Stage]", list(model.features.stages)):
        if stage.projected:  # tapped before the last block's last BatchNorm
            *_, last = stage.blocks.values()
            *_, projection = cast(nn.Module, last.block).children()
            tapped.add(id(projection))
    for module in model.modules():
        if id(module) not in tapped:
            _fold_children(module)
    return model


def _fold_children(module: nn.Module) -> None:
    previous: nn.Module = module
    name = ""
    for key, child in list(module.named_children()):
        if isinstance(previous, nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _fused(previous, child))
            setattr(module, key, nn.Identity())
        previous, name = child, key


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Conv2d:
    fused = fuse_conv_bn_eval(cast(nn.Conv2d, layer), cast(nn.BatchNorm2d, norm))
    return fused.requires_grad_(False)


def fold_pixels(model: DeployModel) -> DeployModel:
    """The pixels' deviation lies in the first convolutions; their mean stays (zero padding)."""
    pixels = cast(Pixels, model.pixels)
    if pixels.deviation is None:
        return model
    deviation = pixels.deviation
    pixels.deviation = None
    first = [next(m for m in model.features.stages.modules() if isinstance(m, nn.Conv2d))]
    first += [cast(nn.Conv2d, cast(Head, head).layers[0]) for head in model.head.children()]
    for layer in first:
        layer.weight.div_(deviation)
    return model


def _blocks(model: DeployModel) -> list[tuple[Level, Block]]:
    levels = [level for level in model.levels if isinstance(level, Level)]
    return [(level, cast(Block, block)) for level in levels for block in level.blocks]
