"""What a manifest says of a run and of the graphs that were made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .. import __version__
from ..bundle import manifest as m
from ..calibration.calibrate import Calibration
from ..model.method import Method
from ..run import Run
from .goldens import Goldens
from .search import Outcome
from .settle import Settled


@dataclass(frozen=True)
class Made:
    """One graph as it is shipped, with what was settled for it."""

    outcome: Outcome
    settled: Settled


def draft(
    run: Run,
    model: Method[Any],
    calibration: Calibration,
    made: Sequence[Made],
    goldens: Goldens,
    references: dict[str, float],
    batch: int,
) -> m.Manifest:
    """The manifest, but for its files and digest, which writing fills in."""
    config, record = run.config.model, run.record
    height, width = config.height, config.width
    return m.Manifest(
        schema=m.SCHEMA,
        sanflow=__version__,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        target=made[0].outcome.candidate.target,
        graphs=tuple(map(_graph, made)),
        model=m.ModelInfo(
            method=config.method,
            extractor=config.extractor,
            taps=config.taps,
            pools=config.pools,
            padding=config.padding,
            feature_scale=config.feature_scale,
            fusion=config.fusion,
            image_score=config.image_score,
            weights=record.weights.source,
            weights_sha256=record.weights.sha256,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            checkpoint_sha256=calibration.model_sha256,
        ),
        data=m.DataInfo(
            fingerprint=record.data.fingerprint,
            train=len(record.data.roles["train"]),
            calibrate=len(calibration.images),
            parts=len(calibration.part_scores),
        ),
        input=m.Tensor("image", "uint8", (batch, height, width, 3)),
        outputs=(
            m.Tensor("score", "float32", (batch,)),
            m.Tensor("map", "float32", (batch, height, width)),
        ),
        pixels=run.pixel_path,
        calibration=m.CalibrationInfo(calibration.level_max),
        golden=goldens.entries(),
        references=references,
        files={},
        digest="",
    )


def _graph(made: Made) -> m.Graph:
    candidate, settled = made.outcome.candidate, made.settled
    return m.Graph(
        precision=candidate.precision,
        regions=dict(candidate.plan.regions),
        activation=candidate.activation,
        files=tuple(candidate.files),
        scores=settled.scores,
        part_scores=settled.part_scores,
        decision=settled.decision,
        tolerances=settled.tolerances,
    )
