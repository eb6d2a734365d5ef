"""The same model as its authors' code runs it: FrEIA's blocks on one row per position.

The condition is joined to every subnet's input, each permutation is a product with a dense matrix,
the statistics head is evaluated at every pixel and sampled by nearest resize. Traced, this is what
a user gets who exports such a model; with `fibre`, it is the loop over 256 positions at a time that
the released codes run in PyTorch.
"""

from __future__ import annotations

import copy
from typing import Any

import FrEIA.framework as Ff
import FrEIA.modules as Fm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanflow.model.likelihood import Spread, clip, log_density
from sanflow.model.sanflow import SANFlow
from sanflow.model.score import anomaly_map, image_score


class FreiaSANFlow(nn.Module):
    """A copy of the model in FrEIA; `fibre` positions at a time, or all of them at once."""

    def __init__(self, model: SANFlow, fibre: int | None = None) -> None:
        super().__init__()
        self.config, self.fibre = model.config, fibre
        self.own = copy.deepcopy(model).eval()
        assert self.own.head is not None
        self.own.head.last.stride = (1, 1)
        self.decoders = nn.ModuleList(_decoder(flow) for flow in model.flows)
        for k, flow in enumerate(model.flows):
            self.register_buffer(f"code{k}", flow.code().flatten(2)[0].T.contiguous())
        self.own.flows = nn.ModuleList()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (1,) and maps (1, H, W) of one image (1, H, W, 3)."""
        x = self.own.normalise(images)
        gamma = clip(self.own.head(x))
        levels = []
        for k, v in enumerate(self.own.features(x)):
            channels, height, width = (int(n) for n in v.shape[1:])
            rows = v.permute(0, 2, 3, 1).reshape(-1, channels)
            square, log_det = self._decode(k, rows)
            here = F.interpolate(gamma, (height, width), mode="nearest")
            spread = Spread.mode(here[:, 0], here[:, 1], self.config.max_variance)
            square, log_det = (t.view(1, height, width) / channels for t in (square, log_det))
            levels.append(log_density(square, spread) + log_det)
        maps = anomaly_map(levels, self.own.level_max, self.config)
        return image_score(maps, self.config), maps

    def _decode(self, k: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Summed squares and log-determinants of rows (positions, channels)."""
        code = getattr(self, f"code{k}")
        size = self.fibre or rows.shape[0]
        parts = []
        for start in range(0, rows.shape[0], size):
            part = slice(start, start + size)
            z, log_det = self.decoders[k](rows[part], [code[part]])
            parts.append(((z * z).sum(dim=1), log_det))
        squares, log_dets = zip(*parts, strict=True)
        return torch.cat(squares), torch.cat(log_dets)


def cflow(model: SANFlow, width: int = 128) -> nn.ModuleList:
    """Decoders of CFLOW-AD's own size for the same taps: a condition of 128, random weights."""
    return nn.ModuleList(_sequence(flow.channels, width, len(flow.blocks)) for flow in model.flows)


def _sequence(channels: int, condition: int, blocks: int) -> Any:
    sequence = Ff.SequenceINN(channels)
    for _ in range(blocks):
        sequence.append(
            Fm.AllInOneBlock,
            cond=0,
            cond_shape=(condition,),
            subnet_constructor=_subnet,
            affine_clamping=1.9,
            global_affine_type="SOFTPLUS",
            permute_soft=False,
        )
    return sequence.eval().requires_grad_(False)


def _subnet(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 2 * inputs), nn.ReLU(), nn.Linear(2 * inputs, outputs))


def _decoder(flow: Any) -> nn.Module:
    condition = 2 * flow.code.columns.shape[1]
    sequence = _sequence(flow.channels, condition, len(flow.blocks))
    with torch.no_grad():
        for block, own in zip(sequence.module_list, flow.blocks, strict=True):
            _copy(block, own)
    return sequence


def _copy(block: Any, own: Any) -> None:
    for layer, conv in ((block.subnet[0], own.first), (block.subnet[2], own.last)):
        layer.weight.copy_(conv.weight.flatten(1))
        layer.bias.copy_(conv.bias)
    block.global_scale.copy_(own.global_scale.flatten()[None])
    block.global_offset.copy_(own.global_offset.flatten()[None])
    matrix = torch.eye(own.permutation.numel())[own.permutation]
    block.w_perm.copy_(matrix)
    block.w_perm_inv.copy_(matrix.T)
