"""The parts that precision is judged on: held-out good parts, anomalies made of them, defects.

PyTorch's word on each is taken once, in FP32. No image of the test role is ever opened: what was
chosen by the test images says nothing about them afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import SMALL_SCORE, golden_name
from ..calibration.calibrate import CalibratedImage
from ..data.config import SynthConfig
from ..data.synthetic import Synthesiser
from ..errors import CalibrationError, DataError
from ..imaging import pixel_sha256
from ..run import Run
from ..runtime.parity import Reference
from .goldens import Goldens

MOST = 200
"""Calibration images that are replayed, evenly spaced over their scores; also the references."""
SYNTHETIC_BATCHES, QUOTAS = 4, (1, 4, 4, 4)
"""Of each batch of synthetic images: one untouched (left out), four of each kind."""
EPOCH = 2**31
"""The epoch that synthetic anomalies are drawn for: no training ever comes to it."""
AGREEMENT = 1e-3
"""How far PyTorch's scores may be from the calibration's: another machine may have calibrated."""

Kind = Literal["calibration", "synthetic", "good", "defect"]
"""A good part of the calibration role, an anomaly made of one, or the user's own of --defects."""
Step = Callable[[], None]
"""Called after each part."""


@dataclass(frozen=True)
class Part:
    """A model input (H, W, 3) with PyTorch's score and map (H, W)."""

    name: str
    kind: Kind
    image: NDArray[np.uint8]
    score: float
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None
    """Where the defect is; None where nobody has said so."""


def spread(images: Sequence[CalibratedImage], most: int = MOST) -> list[CalibratedImage]:
    """At most so many of them, by score, the lowest and the highest included."""
    ordered = sorted(images, key=lambda image: (image.score, image.path))
    count = min(len(ordered), most)
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, count).round().astype(int)]


def data_root(run: Run, data: Path | None) -> Path:
    """The folder that the run's images lie in, `data` where it has moved."""
    root = Path(run.record.data.root) if data is None else Path(data)
    return root.parent if root.is_file() else root  # a CSV manifest's images lie beside it


def find_images(run: Run, images: Sequence[CalibratedImage], data: Path | None) -> list[Path]:
    """The files of these images; DataError names those that are missing."""
    root = data_root(run, data)
    missing = [image.path for image in images if not (root / image.path).is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(images)} calibration images are not there "
            f"({', '.join(missing[:5])}); say where the run's data set lies with --data"
        )
    return [root / image.path for image in images]


def load_good(run: Run, image: CalibratedImage, path: Path) -> NDArray[np.uint8]:
    """The model input (H, W, 3) of a calibration image, checked to be what was calibrated on."""
    pixels = run.pixel_path.load(path)
    if pixel_sha256(pixels) != image.pixel_sha256:
        raise DataError(
            f"{path}: not the pixels that the run was calibrated on; restore the image, or "
            f"run `sanflow calibrate {run.path}` again"
        )
    return pixels


def good_parts(
    run: Run,
    images: Sequence[CalibratedImage],
    paths: Sequence[Path],
    reference: Reference,
    step: Step,
) -> list[Part]:
    """These calibration images, judged by PyTorch here and now.

    The scores must be those of the calibration up to rounding, or the threshold means nothing:
    CalibrationError if they are not.
    """
    parts = []
    for image, path in zip(images, paths, strict=True):
        pixels = load_good(run, image, path)
        score, heat = reference(pixels)
        if not abs(score - image.score) <= AGREEMENT * max(abs(image.score), SMALL_SCORE):
            raise CalibrationError(
                f"{image.path}: the model's score is {score:.6g}, its calibration says "
                f"{image.score:.6g}; calibrate the run again, on the CPU"
            )
        parts.append(Part(image.path, "calibration", pixels, score, heat))
        step()
    return parts


def synthetic_parts(
    good: Sequence[Part], synth: SynthConfig, reference: Reference, step: Step
) -> list[Part]:
    """Anomalies pasted on good parts, as training makes them, but none that any training made."""
    inputs = [part.image for part in good]
    height, width = inputs[0].shape[:2]
    config = dataclasses.replace(synth, enabled=True, quotas=QUOTAS)
    synthesiser = Synthesiser(config, height, width, seed=0)
    parts: list[Part] = []
    for batch in range(SYNTHETIC_BATCHES):
        first = batch * sum(QUOTAS)
        bases = [inputs[(first + i) % len(inputs)] for i in range(sum(QUOTAS))]
        images, masks = synthesiser.batch(bases, inputs, epoch=EPOCH, step=batch)
        for slot in range(QUOTAS[0], sum(QUOTAS)):
            score, heat = reference(images[slot])
            name = f"synthetic {len(parts):03d} ({synthesiser.kinds[slot]})"
            parts.append(Part(name, "synthetic", images[slot], score, heat, masks[slot]))
            step()
    return parts


def golden_parts(goldens: Goldens) -> list[Part]:
    """The anomalies among the goldens: the good ones are calibration parts already."""
    judged = zip(goldens.kinds, goldens.images, goldens.scores, goldens.maps, strict=True)
    return [
        Part(golden_name(index), "synthetic", image, score, heat)
        for index, (kind, image, score, heat) in enumerate(judged)
        if kind == "anomaly"
    ]


def synthetic_count() -> int:
    """How many `synthetic_parts` makes."""
    return SYNTHETIC_BATCHES * sum(QUOTAS[1:])
