"""From an image to a verdict: pixel path, engine, decision.

OK is only ever said of a finite score of a complete image. Everything else that can happen to an
image at run time ends in NO-DECISION with a reason, which a line must treat as a reject; it never
ends in an exception, and never in silence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import imaging
from ..bundle import Bundle, Decision
from ..errors import EngineError, ImageError, InputError
from .ahead import ahead
from .engine import Engine, Output
from .registry import open_engine
from .setting import Gpu

Image = str | os.PathLike[str] | bytes | NDArray[Any]
"""A file's path or its bytes, or a camera's array; see `imaging.to_rgb8` for which arrays."""

Verdict = Literal["OK", "NG", "NO-DECISION"]
Reason = Literal["score", "bad_image", "bad_score", "engine_error"]


@dataclass(frozen=True)
class Result:
    """The verdict on one image, and what it rests on."""

    verdict: Verdict
    score: float | None
    """Raw image score, larger is more anomalous; None if there is none that is finite."""
    map: NDArray[np.float32] | None
    """Anomaly map (H, W) of the model input; None with NO-DECISION."""
    reason: Reason
    """`score` if the score decided; otherwise why there is no decision."""
    uncertain: bool
    """Whether the score lies in the band where the calibration parts cannot tell."""
    detail: str = ""
    """The reason in words; empty if the score decided."""


class Detector:
    """A bundle in an engine, judging images. Use it from one thread at a time."""

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        engine: str | Engine | None = None,
        threads: int | None = None,
        *,
        precision: str | None = None,
        gpu: Gpu | None = None,
    ) -> None:
        """Open the bundle (if it is a path) and an engine (unless an open one is given).

        The decision is that of the engine's graph. Raises BundleError, EngineError, or InputError
        as Bundle.open and open_engine do.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self._owned = not isinstance(engine, Engine)
        self.engine = (
            engine
            if isinstance(engine, Engine)
            else open_engine(self.bundle, engine, threads, precision=precision, gpu=gpu)
        )

    def judge(self, image: Image) -> Result:
        """The verdict on one image."""
        return self.judge_many([image])[0]

    def judge_many(self, images: Sequence[Image]) -> list[Result]:
        """The verdicts on any number of images, in their order; the same bits as one by one."""
        prepared = [self.prepare(image) for image in images]
        inputs = [pixels for pixels in prepared if isinstance(pixels, np.ndarray)]
        judged = self.judge_inputs(inputs)
        return [next(judged) if isinstance(p, np.ndarray) else p for p in prepared]

    def prepare(self, image: Image) -> NDArray[np.uint8] | Result:
        """Model input (H, W, 3) of one image, or its NO-DECISION if it is no usable image.

        May be called from other threads.
        """
        try:
            return self.bundle.pixel_path(load(image))
        except ImageError as error:
            return no_decision("bad_image", str(error))

    def judge_inputs(self, inputs: Sequence[NDArray[np.uint8]]) -> Iterator[Result]:
        """The verdicts on model inputs uint8 (H, W, 3), batch by batch, lazily.

        Raises InputError for an array that the pixel path cannot have made.
        """
        wanted = self.engine.inputs[0].shape[1:]
        for pixels in inputs:
            if pixels.dtype != np.uint8 or pixels.shape != wanted:
                raise InputError(
                    f"given {pixels.dtype} {pixels.shape}, expected uint8 {wanted}: prepare() "
                    "brings an image to size"
                )
        size, together = self.engine.batch, self.engine.in_flight
        lots = (inputs[start : start + size] for start in range(0, len(inputs), size))
        judged = (
            ahead(self._judge_batch, lots, together, together)
            if together > 1
            else map(self._judge_batch, lots)
        )
        for results in judged:
            yield from results

    def close(self) -> None:
        """Close the engine, if this detector opened it."""
        if self._owned:
            self.engine.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _judge_batch(self, inputs: Sequence[NDArray[np.uint8]]) -> list[Result]:
        try:
            output = self.engine.infer(self.engine.filled(inputs))
        except EngineError as error:
            return [no_decision("engine_error", str(error)) for _ in inputs]
        return [_decide(output, slot, self.engine.graph.decision) for slot in range(len(inputs))]


def load(image: Image) -> NDArray[np.uint8]:
    """RGB pixels uint8 (H, W, 3) at their own size; ImageError if it is no usable image."""
    if isinstance(image, np.ndarray):
        return imaging.to_rgb8(image)
    if isinstance(image, bytes):
        return imaging.decode(image)
    if isinstance(image, (str, os.PathLike)):
        return imaging.read(Path(image))
    # None, above all: what OpenCV and many a camera's package give instead of an error.
    raise ImageError(
        f"given {type(image).__name__}, expected a path, a file's bytes or a NumPy array"
    )


def no_decision(reason: Reason, detail: str) -> Result:
    """The result of an image that cannot be judged."""
    return Result("NO-DECISION", None, None, reason, False, detail)


def _decide(output: Output, slot: int, decision: Decision) -> Result:
    score, heat = float(output.score[slot]), output.map[slot]
    if not np.isfinite(score):
        return no_decision("bad_score", f"the engine's score is {score}, expected a finite number")
    if not np.isfinite(heat).all():
        count = int(np.count_nonzero(~np.isfinite(heat)))
        return no_decision("bad_score", f"{count} of {heat.size} map values are not finite")
    return Result(
        verdict="NG" if score > decision.threshold else "OK",
        score=score,
        map=heat,
        reason="score",
        uncertain=decision.band_low <= score <= decision.band_high,
    )
