"""From a trained model to the inference model: the passes in order, and what each is worth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..model.cflow import CFLOW
from ..model.cls_cnf import CLSCNF
from ..model.fastflow import FastFlow
from ..model.method import Method
from ..model.pyramid import Pyramid
from ..model.sanflow import SANFlow
from . import passes
from .blend import naive_blend
from .deploy import DeployModel
from .macs import macs, stored_values
from .naive import naive

Pass = Callable[[DeployModel], DeployModel]
Inference = DeployModel | Method[Any]
"""What is traced: the compiled form, or a method as it was trained."""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did to the multiplications of one image and to what is stored."""

    number: int
    """In docs/graph.md, with its equation."""
    name: str
    macs_before: int
    macs_after: int
    values_before: int
    values_after: int
    note: str


@dataclass(frozen=True)
class Compiled:
    """The inference model in float32, and how it came to be."""

    model: Inference
    passes: tuple[PassRecord, ...]


PASSES: tuple[tuple[Pass, str], ...] = (
    (passes.pointwise, "linear layers are 1x1 convolutions"),
    (passes.fold_condition, "the position is a row and a column of bias"),
    (passes.gather_permutations, "hard permutations are gathers"),
    (passes.drop_last_mix, "the last permutation changes no square sum"),
    (passes.fold_factor, "the subnet's factor 0.1 is in its weights"),
    (passes.fold_norms, "global scales, offsets and feature scaling are in the weights"),
    (passes.freeze_likelihood, "one constant per level, means as convolutions"),
    (passes.fold_head, "BatchNorm folded, the last convolution only where it is sampled"),
    (passes.fold_batch_norms, "BatchNorm folded"),
    (passes.fold_pixels, "the pixels' deviation is in the first convolutions"),
)


FLOWS: tuple[type[Pyramid], ...] = (SANFlow, CFLOW, FastFlow)
"""Methods whose inference model is nothing but flows under a likelihood: the passes are theirs."""


@torch.no_grad()
def compile_model(model: Method[Any]) -> Compiled:
    """The inference model of a trained one: every pass in order, in float64, then float32.

    A method that the passes do not know is traced as it was trained.
    """
    if isinstance(model, CLSCNF):
        return _passed(naive_blend(model))
    if not isinstance(model, FLOWS):
        plain = copy.deepcopy(model).eval().requires_grad_(False)
        count, stored = macs(plain), stored_values(plain)
        record = PassRecord(0, "as trained", count, count, stored, stored, "traced as it is")
        return Compiled(plain, (record,))
    return _passed(naive(model))


def _passed(state: DeployModel) -> Compiled:
    records = []
    before = macs(state), stored_values(state)
    for number, (apply, note) in enumerate(PASSES, start=1):
        state = apply(state)
        after = macs(state), stored_values(state)
        name = apply.__name__.replace("_", " ")
        records.append(PassRecord(number, name, before[0], after[0], before[1], after[1], note))
        before = after
    return Compiled(state.float().eval(), tuple(records))
