"""The one verdict of a part, as every output writes it and the archive keeps it.

The names map one to one to OPC 40100-1's ResultDataType: `part` is PartId, `result` ResultId,
`bundle` InternalRecipeId, `created` CreationTime; the times are ProcessingTimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["OK", "NG"]
Reason = Literal[
    "",
    "score",
    "no_image",
    "incomplete",
    "overflow",
    "engine_error",
    "bad_score",
    "deadline",
    "not_ready",
    "self_test",
]
"""Why a part is NG: `score` is a defect that was seen, everything else a part nobody judged."""


@dataclass(frozen=True)
class PartResult:
    """What the line is told about one part: exactly one per part id, in the order of the parts."""

    result: int
    """Counts from 1 without a gap over the life of the process: an output sees what it missed."""
    part: int
    verdict: Verdict
    reason: Reason
    """Empty with OK."""
    detail: str
    """The reason in words; empty where the score decided."""
    score: float | None
    """Raw score; None if the part was not judged."""
    threshold: float
    uncertain: bool
    """Whether the score lies in the band where the calibration parts cannot tell."""
    late: bool
    """Whether the deadline passed before there was a score; always NG, reason `deadline`."""
    source: str
    """The source's name, without credentials."""
    sequence: int | None
    """The source's own frame number."""
    image: str
    """What people call the image: a file's name, empty for a camera."""
    encoder: int | None
    bundle: str
    """Digest of the bundle that judged, or was to judge."""
    engine: str
    """Name, version and precision of the engine."""
    created: str
    """Wall clock when the verdict was given: UTC, ISO 8601, to the millisecond."""
    wait_ms: float
    """From the trigger (or arrival) to the engine; 0 if it never got there."""
    prepare_ms: float
    """Pixels to the model's size."""
    engine_ms: float
    total_ms: float
    """From the trigger (or arrival) to the verdict."""
    run: str = ""
    """Id of this process's life, so that `result` is unique across restarts."""

    def __post_init__(self) -> None:
        if (self.verdict == "OK") != (self.reason == ""):
            raise ValueError(f"verdict {self.verdict} with reason {self.reason!r}")
        if self.verdict == "OK" and (self.score is None or not self.score <= self.threshold):
            raise ValueError(f"OK with score {self.score}, threshold {self.threshold}")
