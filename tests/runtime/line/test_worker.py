"""A worker spends the engine's time on parts that can still be in time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from sanflow.errors import EngineError
from sanflow.runtime.line.ledger import Entry, Outcome
from sanflow.runtime.line.worker import Worker

PIXELS = np.zeros((2, 2, 3), np.uint8)


def test_a_part_that_no_call_can_answer_in_time_takes_none() -> None:
    asked: list[int] = []
    settled: list[tuple[int, Outcome]] = []

    def infer(batch: Any) -> Any:
        asked.append(len(batch))
        raise EngineError("busy")

    decision = SimpleNamespace(threshold=1.0)
    judge: Any = SimpleNamespace(
        fastest=10.0,
        batch=list,
        infer=infer,
        served=lambda: None,
        decision=decision,
        digest="",
        name="",
    )
    emitter: Any = SimpleNamespace(settle=lambda e, outcome: settled.append((e.part, outcome)))
    queue: Any = None
    worker = Worker(queue, emitter, 1.0, lambda judge, problem: None)
    now = time.monotonic()
    hopeless, timely = (Entry(n, n, now, now + left, None, "s") for n, left in ((1, 5), (2, 60)))
    worker._infer([hopeless], [PIXELS], judge, 0.0)
    assert not asked
    worker._infer([hopeless, timely], [PIXELS, PIXELS], judge, 0.0)
    assert asked == [1]
    assert [(part, outcome.reason) for part, outcome in settled] == [(2, "engine_error")]
