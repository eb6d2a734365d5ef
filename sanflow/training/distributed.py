"""Several processes under torchrun: what one process must know of the others, and say to them.

Each process takes its own share of an epoch's batches and gradients are averaged before each step,
so all hold the same weights. The head's batch statistics are each process's own; their running
averages are averaged at the end of an epoch. Only the first process writes files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import InputError, SanflowError

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long others wait for the first process, which alone checks the data and teaches."""


@dataclass(frozen=True)
class Group:
    """This process among `world` processes; the default is a process alone."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def share(self, value: Callable[[], T]) -> T:
        """What the first process computes, on every process; its error ends all of them."""
        if self.world == 1:
            return value()
        box: list[T | SanflowError | None] = [None]
        if self.leads:
            try:
                box = [value()]
            except SanflowError as error:
                box = [error]
        dist.broadcast_object_list(box)
        if isinstance(box[0], SanflowError):
            raise box[0]
        return box[0]  # type: ignore[return-value]

    def require_same_world(self, world: int) -> None:
        """Refuse to continue the work of another number of processes."""
        if world != self.world:
            raise InputError(
                f"the run began with {world} process{'es' * (world > 1)}, now there are "
                f"{self.world}: that would change its result; start as many, or give another --out"
            )

    def align(self, model: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.world > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one exchange."""
        if self.world > 1:
            self._average([p.grad for p in parameters if p.grad is not None])

    def average_statistics(self, model: nn.Module) -> None:
        """Replace the running statistics of each learning BatchNorm by their mean."""
        if self.world > 1:
            norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
            statistics = [b for m in norms for b in m.buffers() if b.is_floating_point()]
            if statistics:
                self._average(statistics)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def _average(self, tensors: list[Tensor]) -> None:
        flat = self.mean(torch.cat([t.reshape(-1) for t in tensors]))
        parts = torch.split(flat, [t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def process_group() -> Iterator[Group]:
    """The processes that torchrun started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
