"""The learning rate of every optimiser step: warm-up, then cosine per meta-epoch (methods 1.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import OptimConfig

DECAY = 1e-3
"""The cosine ends at this share of the base rate (0.1 cubed)."""
WARMUP_START = 0.1
"""The warm-up begins at this share of the base rate."""


@dataclass(frozen=True)
class Schedule:
    """lr(step) for M meta-epochs of `sub_epochs` passes, each of `steps` optimiser steps."""

    optim: OptimConfig
    steps: int

    @property
    def meta_epochs(self) -> int:
        """M; the last one is shorter when sub_epochs does not divide epochs."""
        return math.ceil(self.optim.epochs / self.optim.sub_epochs)

    @property
    def warmup(self) -> int:
        """Meta-epochs of warm-up: as configured, but never more than half of a short run."""
        return min(self.optim.warmup_meta_epochs, self.meta_epochs // 2)

    def cosine(self, meta_epoch: int) -> float:
        """eta + (lr - eta)(1 + cos(pi e / M)) / 2 with eta = lr / 1000; lr where nothing decays."""
        base = self.optim.learning_rate
        if self.optim.decay == "none":
            return base
        low = base * DECAY
        return low + (base - low) * (1 + math.cos(math.pi * meta_epoch / self.meta_epochs)) / 2

    def __call__(self, step: int) -> float:
        """The rate of optimiser step `step`, counted from 0 over the whole run."""
        length = self.optim.sub_epochs * self.steps
        if step >= self.warmup * length:
            return self.cosine(step // length)
        start = self.optim.learning_rate * WARMUP_START
        return start + step / (self.warmup * length) * (self.cosine(self.warmup) - start)
