"""One epoch of optimiser steps: summed loss of all levels, one Adam over flows and heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import RunConfig
from ..errors import SanflowError
from ..model.method import Method, Steps
from .distributed import Group
from .precision import Precision, autocast
from .schedule import Schedule

Batch = tuple[NDArray[np.uint8], NDArray[np.bool_]]


class Loop:
    """The model in training, its optimiser, and what happens in each step."""

    def __init__(
        self, model: Method[Any], config: RunConfig, steps: int, precision: Precision, group: Group
    ) -> None:
        self.model = model
        self.config = config
        self.steps = steps
        self.precision = precision
        self.group = group
        self.device = model.level_max.device
        self.schedule = Schedule(config.optim, steps)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        optim = config.optim
        self.optimizer = torch.optim.Adam(
            self.parameters,
            optim.learning_rate,
            betas=optim.betas,
            eps=optim.epsilon,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        self.steps_of = Steps(optim.positions, optim.updates, optim.fibre, optim.feature_noise)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def epoch(
        self, epoch: int, batches: Iterable[Batch], after: Callable[[int, float, float], None]
    ) -> dict[str, float]:
        """Train on one epoch's batches; the means of the loss and its parts over all processes.

        `after(step, loss, learning_rate)` is called with the step's number within the epoch.
        Raises SanflowError when the loss or a weight is no longer finite.
        """
        self.model.train()
        sums: dict[str, float] = {}
        for step, (images, masks) in enumerate(batches):
            rate = self.schedule(epoch * self.steps + step)
            values = self._step(images, masks, epoch, step, rate)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            after(step, values["loss"], rate)
        self._require_finite_weights(epoch)
        self.group.average_statistics(self.model)
        totals = torch.tensor(list(sums.values()), dtype=torch.float64)
        return dict(zip(sums, (self.group.mean(totals) / self.steps).tolist(), strict=True))

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The optimiser's and the gradient scaler's state."""
        return self.optimizer.state_dict(), self.scaler.state_dict()

    def restore(self, optimizer: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Continue from such a state."""
        self.optimizer.load_state_dict(optimizer)
        self.scaler.load_state_dict(scaler)

    def _step(
        self,
        images: NDArray[np.uint8],
        masks: NDArray[np.bool_],
        epoch: int,
        step: int,
        rate: float,
    ) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = self._generator(epoch, step)
        covered = torch.from_numpy(masks).to(self.device, non_blocking=True)
        with autocast(self.precision, self.device):
            pixels = torch.from_numpy(images).to(self.device, non_blocking=True)
            observed = self.model.observe(pixels)
        sums: dict[str, float] = {}
        count = 0
        for draw in self.model.draws(len(images), self.steps_of, generator):
            with autocast(self.precision, self.device):
                total, values = self.model.loss(observed, covered, draw, self.config.loss)
            if not math.isfinite(values["loss"]):
                raise self._diverged(f"the loss is {values['loss']}", epoch, step, rate)
            self._descend(total)
            observed = observed.detached()
            count += 1
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / count for name, value in sums.items()}

    def _descend(self, total: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(total))
        self.group.average_gradients(self.parameters)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _generator(self, epoch: int, step: int) -> torch.Generator:
        """Randomness of one step of one process, from (seed, epoch, step, rank) alone."""
        key = (self.config.optim.seed, epoch, step, self.group.rank)
        (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed))

    def _require_finite_weights(self, epoch: int) -> None:
        # A checkpoint of broken weights could not be resumed: it must never be written.
        if not all(bool(p.isfinite().all()) for p in self.parameters):
            raise self._diverged("a weight is not finite", epoch, self.steps - 1, None)

    def _diverged(self, what: str, epoch: int, step: int, rate: float | None) -> SanflowError:
        at = "" if rate is None else f" at learning rate {rate:.3g}"
        return SanflowError(
            f"training diverged: {what} in epoch {epoch + 1}, step {step + 1} of {self.steps}{at} "
            f"({self.precision}); give a lower optim.learning_rate, or optim.precision = 'fp32'"
        )
