"""The learning rate against the reference's golden values and its own shape."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sanflow.config import OptimConfig
from sanflow.training.schedule import Schedule

STEPS = 25


def rates(**optim: object) -> list[float]:
    config = OptimConfig(**optim)  # type: ignore[arg-type]
    schedule = Schedule(config, STEPS)
    return [schedule(step) for step in range(config.epochs * STEPS)]


def test_golden_values_of_the_reference() -> None:
    """lr = 5e-4, M = 20: from 5e-5 to 4.878e-4 in the warm-up, 3.6e-6 in the last meta-epoch."""
    all_rates = rates(learning_rate=5e-4, epochs=80, sub_epochs=4)
    meta = 4 * STEPS
    assert all_rates[0] == pytest.approx(5e-5)
    assert all_rates[2 * meta] == pytest.approx(4.878e-4, rel=1e-4)
    assert all_rates[-1] == pytest.approx(3.6e-6, rel=2e-2)
    # q = (b + e T) / (2 T): halfway through the warm-up, half of the way up
    assert all_rates[meta] == pytest.approx((5e-5 + 4.8778e-4) / 2, rel=1e-4)


def test_warm_up_rises_each_step_and_then_the_rate_falls_once_per_meta_epoch() -> None:
    all_rates = rates(epochs=24, sub_epochs=3)
    warm = 2 * 3 * STEPS
    assert all(a < b for a, b in pairwise(all_rates[: warm + 1]))
    metas = [set(all_rates[i : i + 3 * STEPS]) for i in range(warm, len(all_rates), 3 * STEPS)]
    assert all(len(meta) == 1 for meta in metas)
    levels = [meta.pop() for meta in metas]
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) == len(levels) == 6


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_a_short_run_still_learns(epochs: int) -> None:
    """Warm-up towards the cosine's end would never reach a useful rate: half a run at most."""
    all_rates = rates(epochs=epochs, sub_epochs=1, learning_rate=1.0)
    assert max(all_rates) >= 0.5
    assert min(all_rates) > 0


def test_no_warm_up_begins_at_the_base_rate() -> None:
    assert rates(warmup_meta_epochs=0, learning_rate=2e-4)[0] == pytest.approx(2e-4)


def test_a_last_meta_epoch_cut_short_is_still_on_the_cosine() -> None:
    whole = rates(epochs=8, sub_epochs=4)
    cut = rates(epochs=7, sub_epochs=4)
    assert cut == whole[: len(cut)]
