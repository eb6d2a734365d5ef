"""One epoch of steps: who learns, at which rate, from which randomness, and when it stops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from sanflow.config import RunConfig
from sanflow.errors import SanflowError
from sanflow.model.sanflow import SANFlow
from sanflow.training.checkpoint import learned
from sanflow.training.distributed import Group
from sanflow.training.loop import Batch, Loop
from sanflow.training.precision import Precision

STEPS = 2


def batches(epoch: int = 0, count: int = STEPS) -> Iterator[Batch]:
    rng = np.random.default_rng(epoch)
    for _ in range(count):
        masks = np.zeros((4, 64, 64), bool)
        masks[2:, 16:40, 8:48] = True
        yield rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8), masks


def a_loop(config: RunConfig, precision: Precision = "fp32") -> Loop:
    return Loop(SANFlow(config.model, seed=1), config, STEPS, precision, Group())


def ignore(step: int, loss: float, rate: float) -> None:
    pass


def bits(loop: Loop) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in learned(loop.model).items()}


def test_flows_and_head_learn_and_the_extractor_does_not(config: RunConfig) -> None:
    loop = a_loop(config)
    before = {k: v.clone() for k, v in loop.model.state_dict().items()}
    loop.epoch(0, batches(), ignore)
    changed = {k for k, v in loop.model.state_dict().items() if not torch.equal(v, before[k])}
    parameters = dict(loop.model.named_parameters())
    assert {k for k, p in parameters.items() if p.requires_grad} <= changed
    assert not any(k.startswith("extractor.") for k in changed)
    assert {k.split(".")[0] for k in changed} == {"flows", "head"}


def test_further_updates_of_a_batch_train_the_flows_alone(config: RunConfig) -> None:
    once, thrice = (
        a_loop(replace(config, optim=replace(config.optim, updates=updates))) for updates in (1, 3)
    )
    for loop in (once, thrice):
        loop.epoch(0, batches(count=1), ignore)
    learning = [k for k, p in once.model.named_parameters() if p.requires_grad]
    before, after = bits(once), bits(thrice)
    same = {k for k in learning if before[k] == after[k]}
    assert same == {k for k in learning if k.startswith("head.")}


def test_the_loss_falls(config: RunConfig) -> None:
    config = replace(config, optim=replace(config.optim, epochs=12, learning_rate=2e-3))
    loop = a_loop(config)
    losses = [loop.epoch(e, batches(), ignore)["loss"] for e in range(12)]
    assert losses[-1] < losses[0] - 0.5


def test_every_step_reports_and_uses_the_schedules_rate(config: RunConfig) -> None:
    loop = a_loop(config)
    seen: list[tuple[int, float]] = []
    used: list[float] = []
    for epoch in range(2):
        loop.epoch(
            epoch,
            batches(),
            lambda step, loss, rate: (
                seen.append((step, rate)),
                used.append(loop.optimizer.param_groups[0]["lr"]),
            ),
        )
    expected = [loop.schedule(i) for i in range(2 * STEPS)]
    assert [rate for _, rate in seen] == used == expected
    assert [step for step, _ in seen] == [0, 1, 0, 1]


def test_the_epochs_means_are_those_of_its_steps(config: RunConfig) -> None:
    losses: list[float] = []
    means = a_loop(config).epoch(0, batches(), lambda step, loss, rate: losses.append(loss))
    assert means["loss"] == pytest.approx(sum(losses) / STEPS)
    assert {"nll", "bce", "kl"} <= means.keys()


def test_the_global_random_state_neither_matters_nor_changes(config: RunConfig) -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the state that must not matter
        state = torch.get_rng_state()
        loop = a_loop(config)
        loop.epoch(0, batches(), ignore)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(bits(loop))
    assert runs[0] == runs[1]


def test_positions_are_drawn_anew_in_every_step_epoch_and_run(config: RunConfig) -> None:
    other = replace(config, optim=replace(config.optim, seed=5))
    draws = {
        (name, epoch, step): torch.randperm(50, generator=loop._generator(epoch, step)).tolist()
        for name, loop in (("a", a_loop(config)), ("b", a_loop(other)))
        for epoch in range(2)
        for step in range(2)
    }
    assert len({tuple(order) for order in draws.values()}) == 8


def test_state_restored_in_a_new_loop_continues_with_the_same_bits(config: RunConfig) -> None:
    whole = a_loop(config)
    for epoch in range(3):
        whole.epoch(epoch, batches(epoch), ignore)
    first = a_loop(config)
    first.epoch(0, batches(0), ignore)
    second = a_loop(config)
    second.model.load_state_dict(first.model.state_dict())
    second.restore(*first.state())
    for epoch in (1, 2):
        second.epoch(epoch, batches(epoch), ignore)
    assert bits(second) == bits(whole)


def test_bf16_stays_near_fp32_and_keeps_float32_weights(config: RunConfig) -> None:
    exact, rounded = a_loop(config), a_loop(config, "bf16")
    means = [loop.epoch(0, batches(), ignore)["loss"] for loop in (exact, rounded)]
    assert means[0] != means[1]
    assert means[0] == pytest.approx(means[1], rel=0.02)
    assert all(p.dtype == torch.float32 for p in rounded.parameters)


def test_a_loss_that_is_not_finite_stops_before_the_weights_break(config: RunConfig) -> None:
    loop = a_loop(config)
    loop.epoch(0, batches(0), ignore)
    with torch.no_grad():
        loop.model.flows[0].blocks[0].global_offset.fill_(1e30)
    before = bits(loop)
    with pytest.raises(SanflowError, match=r"the loss is (nan|inf) in epoch 2, step 1 of 2 at"):
        loop.epoch(1, batches(1), ignore)
    assert bits(loop)["head.last.weight"] == before["head.last.weight"]


def test_an_epoch_with_a_broken_weight_is_never_kept(config: RunConfig) -> None:
    loop = a_loop(config)
    with torch.no_grad():
        loop.model.head.last.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(SanflowError, match=r"diverged: .* in epoch 1.*lower optim.learning_rate"):
        loop.epoch(0, (), ignore)
