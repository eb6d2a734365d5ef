"""The training loop and every flow method: who learns, how many steps, and that the loss falls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sanflow.model.methods import build
from sanflow.training.distributed import Group
from sanflow.training.loop import Batch, Loop
from sanflow.training.presets import load_config

LEARNING = {
    "cflow": {"flows"},
    "cflow-sp": {"flows", "head"},
    "fastflow": {"flows", "scalers"},
    "fastflow-sp": {"flows", "scalers", "head"},
}


def a_loop(method: str, **changes: Any) -> Loop:
    config = load_config(
        "edge",
        None,
        {
            "model.extractor": "mobilenet_v2",
            "model.taps": (4, 8),
            "model.pools": (),
            "model.height": 64,
            "model.width": 64,
            "model.blocks": 2,
            "model.head_width": 4,
            "optim.epochs": 4,
            "optim.precision": "fp32",
            **changes,
        },
        method,
    )
    return Loop(build(config.model, seed=1), config, 2, "fp32", Group())


def batches(count: int = 2) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        images = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
        yield images, np.zeros((4, 64, 64), bool)


def ignore(step: int, loss: float, rate: float) -> None:
    pass


@pytest.mark.parametrize("method", LEARNING)
def test_its_parts_learn_and_the_extractor_does_not(method: str) -> None:
    loop = a_loop(method)
    before = {k: v.clone() for k, v in loop.model.state_dict().items()}
    losses = [loop.epoch(epoch, batches(), ignore)["loss"] for epoch in range(4)]
    assert losses[-1] < losses[0]
    changed = {k for k, v in loop.model.state_dict().items() if not torch.equal(v, before[k])}
    assert {k.split(".")[0] for k in changed} == LEARNING[method]


def test_a_fibre_is_an_optimiser_step(tmp_path: Path) -> None:
    """16 x 16 and 8 x 8 positions of 4 images, 64 vectors a step: 16 + 4 steps a batch."""
    loop = a_loop("cflow", **{"optim.fibre": 64, "optim.positions": 1.0, "optim.updates": 1})
    steps: list[int] = []
    real = loop.optimizer.step
    loop.optimizer.step = lambda *given: (steps.append(1), real(*given))[1]  # type: ignore
    found = loop.epoch(0, batches(1), ignore)
    assert len(steps) == 20
    assert set(found) == {"loss", "nll"}


def test_the_optimiser_is_the_configured_one() -> None:
    changes = {"optim.betas": (0.8, 0.7), "optim.epsilon": 1e-4, "optim.weight_decay": 0.5}
    (group,) = a_loop("fastflow", **changes).optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.7), 1e-4, 0.5)


def test_a_rate_that_does_not_decay_stays_after_the_warm_up() -> None:
    loop = a_loop("fastflow", **{"optim.decay": "none", "optim.learning_rate": 1e-3})
    rates = [loop.schedule(step) for step in range(8)]
    assert rates[0] < rates[1] < 1e-3
    assert rates[2:] == [1e-3] * 6
    kept = replace(loop.config.optim, decay="cosine")
    assert type(loop.schedule)(kept, 2)(7) < 1e-3
