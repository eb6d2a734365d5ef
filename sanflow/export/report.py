"""The page inside a bundle that says how its graph was made, what it lost, and how fast it is here.

It is written by what the exporting machine measured, and hashed like every other file. Its head
keeps a browser from running or fetching anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from ..bundle import Bundle
from ..bundle.contents import PAGE_HEAD
from ..evaluation.page import environment
from ..runtime.machine import describe, load_average
from ..runtime.parity import VerifyReport
from ..runtime.registry import open_engine
from . import explain
from .candidate import judges
from .nvidia import NOT_DONE, Accepted
from .search import race

if TYPE_CHECKING:
    from .export import Prepared


@dataclass(frozen=True)
class Speed:
    """Milliseconds of one inference in one engine; the two took turns."""

    engine: str
    threads: int
    plain_ms: float
    """Of the same graph in FP32."""
    ms: float

    @property
    def ratio(self) -> float:
        """How many times as fast as FP32."""
        return self.plain_ms / self.ms


def measure_speed(prepared: Prepared, staged: Bundle) -> tuple[Speed, ...]:
    """Race the bundle against its own graph in FP32, where it is another one, in every engine here.

    Of a tensorrt bundle there is nothing to say before it is on its device.
    """
    images = [golden.image for golden in staged.goldens()]
    batches = [
        np.stack([images[(first + slot) % len(images)] for slot in range(staged.batch)])
        for first in range(len(images))
    ]
    if staged.manifest.target == "tensorrt":
        return ()  # a processor's milliseconds say nothing about a GPU's
    plain = prepared.bench.uniform("fp32")
    found = []
    for name in judges(staged.manifest.target):
        with open_engine(staged, name) as engine:
            label = f"{engine.name} {engine.version}"
            if staged.manifest.graph().precision == "fp32":
                (ms,) = race([engine], batches)
                found.append(Speed(label, engine.threads, ms, ms))
                continue
            with plain.open(name) as base:
                ms, plain_ms = race([engine, base], batches)
            found.append(Speed(label, engine.threads, plain_ms, ms))
    return tuple(found)


def page(
    prepared: Prepared,
    staged: Bundle,
    parity: VerifyReport,
    speeds: Sequence[Speed],
    accepted: Sequence[Accepted],
) -> str:
    """The report as one HTML page that needs nothing else."""
    outcomes, manifest = [made.outcome for made in prepared.made], staged.manifest
    outcome = outcomes[0]
    tables = explain.graph_tables(outcomes, prepared.contract)
    if outcome.trials:
        tables.append(explain.trials_table(outcome.trials, manifest.target))
    tables.append(explain.passes_table(prepared.passes))
    return (
        environment(Path(__file__).parent)
        .get_template("bundle.html.j2")
        .render(
            head=Markup(PAGE_HEAD),
            manifest=manifest,
            graph=manifest.graph(),
            asked=prepared.asked,
            passes=prepared.passes,
            tables=tables,
            parity=explain.Table(
                "Parity with PyTorch",
                parity.columns(),
                tuple(tuple(str(v) if v is not None else "–" for v in r) for r in parity.rows()),
            ),
            speeds=speeds,
            accepted=accepted,
            not_done=NOT_DONE,
            size=outcome.candidate.size,
            plain_size=prepared.bench.uniform("fp32").size,
            defects=prepared.defects,
            warning=prepared.warning,
            machine=describe(),
            load=load_average(),
        )
    )
