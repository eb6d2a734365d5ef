"""The station's numbers as Prometheus reads them.

What is counted per result is counted when it comes; what the station is at the moment is asked for
when somebody scrapes. Counters begin at zero with each life of the slow process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ..output import STATES
from ..result import PartResult
from .drift import Signal
from .health import Health

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BUCKETS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)
"""Milliseconds."""
LATEST = 1000
"""Scores that the quantiles are of."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Metrics:
    """A registry of its own: nothing of the process, only the station."""

    def __init__(
        self,
        name: str,
        health: Health,
        outputs: Callable[[], dict[str, Any]],
        drift: Callable[[], Mapping[Signal, tuple[bool, float]]],
    ) -> None:
        """`name` is what other machines call the station, `outputs` says how each output fares,
        `drift` per signal whether it alarms and how much of an alarm its evidence is."""
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()
        self._name, self._health, self._outputs, self._drift = name, health, outputs, drift
        self._lock = Lock()
        self._scores: deque[float] = deque(maxlen=LATEST)
        self._last: PartResult | None = None
        self._results = Counter(
            "sanflow_results",
            "Verdicts, by verdict and reason; reason deadline is a late part",
            ["verdict", "reason"],
            registry=self.registry,
        )
        self._results.labels("OK", "")
        self._uncertain = Counter(
            "sanflow_uncertain",
            "Verdicts in the band where the calibration parts cannot tell",
            registry=self.registry,
        )
        buckets = [1e-3 * b for b in BUCKETS]
        self._verdict = Histogram(
            "sanflow_verdict_seconds",
            "From the trigger (or arrival) of a part to its verdict",
            buckets=buckets,
            registry=self.registry,
        )
        self._stages = Histogram(
            "sanflow_stage_seconds",
            "Of judged parts: waiting for the engine, preparing the pixels, the engine itself",
            ["stage"],
            buckets=buckets,
            registry=self.registry,
        )
        self.registry.register(self)  # it has `collect`, no more is asked

    def count(self, result: PartResult) -> None:
        """Add one verdict."""
        self._results.labels(result.verdict, result.reason).inc()
        self._verdict.observe(1e-3 * result.total_ms)
        if result.score is not None:
            self._uncertain.inc(result.uncertain)
            for stage in ("wait", "prepare", "engine"):
                self._stages.labels(stage).observe(1e-3 * getattr(result, f"{stage}_ms"))
        with self._lock:
            self._last = result
            if result.score is not None:
                self._scores.append(result.score)

    def collect(self) -> Iterator[Metric]:
        """What the station is at the moment; prometheus_client calls this."""
        from prometheus_client.core import GaugeMetricFamily as Gauge
        from prometheus_client.core import InfoMetricFamily as Info

        health = self._health
        state = health.state
        yield Gauge("sanflow_healthy", "1 if its verdicts may be trusted", int(not health.problem))
        stages = Gauge("sanflow_state", "1 for the state that it is in", labels=["state"])
        for name in STATES:
            stages.add_metric([name], int(state is not None and state.state == name))
        yield stages
        yield Gauge("sanflow_heartbeat_age_seconds", "Since the engine's last", health.silent)
        if state is not None:
            yield Gauge("sanflow_fault", "1 while it says a fault", int(bool(state.fault)))
            yield Gauge("sanflow_warning", "1 while it says a warning", int(bool(state.warning)))
            yield Gauge("sanflow_queue_parts", "Waiting for the engine", state.queue)
        yield from self._of_results(Gauge, Info)
        yield from self._of_outputs(Gauge)
        alarm = Gauge("sanflow_drift_alarm", "1 while the signal alarms", labels=["signal"])
        evidence = Gauge(
            "sanflow_drift_evidence", "Of an alarm: 1 raises it; on a log scale", labels=["signal"]
        )
        for signal, (alarmed, amount) in self._drift().items():
            alarm.add_metric([signal], int(alarmed))
            evidence.add_metric([signal], amount)
        yield alarm
        yield evidence

    def _of_results(self, gauge: Any, info: Any) -> Iterator[Metric]:
        with self._lock:
            last, scores = self._last, list(self._scores)
        if last is None:
            return
        told = datetime.fromisoformat(last.created.replace("Z", "+00:00")).timestamp()
        yield gauge("sanflow_last_result_timestamp_seconds", "Of the last verdict counted", told)
        yield gauge("sanflow_threshold", "NG above", last.threshold)
        words = {"station": self._name, "bundle": last.bundle, "engine": last.engine}
        yield info("sanflow_station", "Who judges", words)
        family = gauge("sanflow_score", f"Of the last {LATEST} judged parts", labels=["quantile"])
        if scores:
            for level, value in zip(QUANTILES, np.quantile(scores, QUANTILES), strict=True):
                family.add_metric([f"{level:g}"], float(value))
        yield family

    def _of_outputs(self, gauge: Any) -> Iterator[Metric]:
        working = gauge("sanflow_output_working", "0 while it fails", labels=["output"])
        waiting = gauge("sanflow_output_waiting", "Results it has to send", labels=["output"])
        for name, health in self._outputs().items():
            working.add_metric([name], int(not health.get("trouble")))
            if isinstance(health.get("waiting"), int):
                waiting.add_metric([name], health["waiting"])
        yield working
        yield waiting


def exposition(metrics: Metrics, accept: str) -> tuple[bytes, str]:
    """What a scraper is answered, in the format it accepts, and its content type."""
    from prometheus_client.exposition import choose_encoder

    encode, content = choose_encoder(accept)
    return encode(metrics.registry), content
