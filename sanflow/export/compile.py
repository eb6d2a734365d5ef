"""From a trained model to the inference model: the passes in order, and what each is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..model.sanflow import SANFlow
from . import passes
from .deploy import DeployModel
from .macs import macs, stored_values
from .naive import naive

Pass = Callable[[DeployModel], DeployModel]


@dataclass(frozen=True)
class PassRecord:
    """What one pass did to the multiplications of one image and to what is stored."""

    name: str
    equation: str
    """Section of the method notes."""
    macs_before: int
    macs_after: int
    values_before: int
    values_after: int
    note: str


@dataclass(frozen=True)
class Compiled:
    """The inference model in float32, and how it came to be."""

    model: DeployModel
    passes: tuple[PassRecord, ...]


PASSES: tuple[tuple[Pass, str, str], ...] = (
    (passes.pointwise, "9.1", "linear layers are 1x1 convolutions"),
    (passes.fold_condition, "9.2", "the position is a row and a column of bias"),
    (passes.gather_permutations, "9.3", "hard permutations are gathers"),
    (passes.drop_last_mix, "9.5", "the last permutation changes no square sum"),
    (passes.fold_factor, "9.4", "the subnet's factor 0.1 is in its weights"),
    (passes.fold_norms, "9.4", "global scales, offsets and feature scaling are in the weights"),
    (passes.freeze_likelihood, "9.6", "one constant per level, means as convolutions"),
    (passes.fold_head, "9.10", "BatchNorm folded, the last convolution only where it is sampled"),
    (passes.fold_extractor, "9.4", "BatchNorm folded"),
    (passes.fold_pixels, "9.4", "the pixels' deviation is in the first convolutions"),
)


@torch.no_grad()
def compile_model(model: SANFlow) -> Compiled:
    """The inference model of a trained one: every pass in order, in float64, then float32."""
    state = naive(model)
    records = []
    before = macs(state), stored_values(state)
    for apply, equation, note in PASSES:
        state = apply(state)
        after = macs(state), stored_values(state)
        name = apply.__name__.replace("_", " ")
        records.append(PassRecord(name, equation, before[0], after[0], before[1], after[1], note))
        before = after
    return Compiled(state.float().eval(), tuple(records))
