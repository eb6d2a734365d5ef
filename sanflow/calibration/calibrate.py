"""Calibrate a run: the score constants m_k from training images, the scores of held-out good parts.

Both go into the run: m_k as a buffer of the model (so that the exported graph holds it), the scores
into RUN/calibration.json, from which any false-alarm rate gives its threshold without a new pass.
The images are those the run recorded, checked by their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .. import schema
from ..bundle import Decision
from ..errors import CalibrationError, DataError
from ..imaging import PixelPath, pixel_sha256, read_bytes
from ..model.device import usable_device
from ..run import MODEL, Run, now, replace_file, write_model
from .threshold import Threshold, conformal_threshold, display_range

FILE = "calibration.json"
LEVEL_MAX_IMAGES = 512
"""Training images that m_k is taken over, evenly spaced in the order of their paths.

m_k is the largest of all their positions' log-likelihoods, 512 x 1344 of them at 256 pixels and
three levels: another thousand images would move it by little and cost minutes. Even spacing leaves
no stretch of a production out; m_k only weighs the levels, the threshold is not taken from it.
"""
BATCH = 8
_WHERE = "DATA of train, --data of the other commands"

Progress = Callable[[int, int], None]
"""Called with the number of images done and their total."""


@dataclass(frozen=True)
class CalibratedImage:
    """A held-out good image: its file, its hash, the hash of its model input, its raw score."""

    path: str
    part: str
    """What it shows: images of one part are no evidence of several."""
    sha256: str
    pixel_sha256: str
    score: float


@dataclass(frozen=True)
class Calibration:
    """RUN/calibration.json: what the held-out good parts scored."""

    schema: Literal["sanflow.calibration/2"]
    created: str
    model_sha256: str
    """Of the model file these scores belong to; another model needs another calibration."""
    level_max: tuple[float, ...]
    """m_k, in the model's buffer already."""
    level_max_images: int
    display_low: float
    display_high: float
    images: tuple[CalibratedImage, ...]

    @property
    def scores(self) -> tuple[float, ...]:
        """The raw scores of all images, ascending."""
        return tuple(sorted(image.score for image in self.images))

    @property
    def part_scores(self) -> tuple[float, ...]:
        """The largest raw score of each part, ascending."""
        return largest({i.path: i.score for i in self.images}, self.parts)

    @property
    def parts(self) -> dict[str, str]:
        """Which part an image shows, by the image's path."""
        return {image.path: image.part for image in self.images}

    def held(self) -> str:
        """How many parts it rests on, and in how many photographs, in words."""
        parts, images = len(self.part_scores), len(self.images)
        shown = "" if parts == images else f" in {images} photographs"
        return f"{parts} held-out good part{'s' if parts != 1 else ''}{shown}"

    @property
    def paths(self) -> tuple[str, ...]:
        """The images, relative to the data set's root."""
        return tuple(image.path for image in self.images)

    @property
    def references(self) -> dict[str, float]:
        """PyTorch's raw score by `imaging.pixel_sha256` of the model input."""
        return {image.pixel_sha256: image.score for image in self.images}

    def threshold(self, false_alarm_rate: float, confidence: float | None = None) -> Threshold:
        """The threshold that keeps false alarms within the rate; see conformal_threshold."""
        return conformal_threshold(self.part_scores, false_alarm_rate, confidence=confidence)

    def decision(self, false_alarm_rate: float, confidence: float | None = None) -> Decision:
        """The same with its band and the display range, as a bundle's manifest holds it."""
        chosen = self.threshold(false_alarm_rate, confidence)
        return Decision(
            threshold=chosen.above(),
            false_alarm_rate=false_alarm_rate,
            band_low=chosen.band_low,
            band_high=chosen.band_high,
            display_low=self.display_low,
            display_high=self.display_high,
        )


def calibrate(
    run: Run, data: Path | None = None, *, device: str = "cpu", progress: Progress | None = None
) -> Calibration:
    """Fit m_k, score the calibrate role one image at a time, and store both in the run.

    `data` is where the run's data set lies now, if it has moved; `device` is `auto`, `cpu`, `cuda`
    or `cuda:N`. Raises DataError naming every missing or changed image, and CalibrationError when
    there is nothing to calibrate with.
    """
    record = run.record.data
    root = Path(record.root) if data is None else Path(data)
    root = root.parent if root.is_file() else root  # a CSV manifest's images lie beside it
    held = record.roles.get("calibrate", ())
    train = _evenly(record.roles.get("train", ()), LEVEL_MAX_IMAGES)
    if not held or not train:
        raise CalibrationError(
            f"run {run.path}: its data has {len(held)} calibration and {len(train)} training "
            "images; both are needed. Train with a data set that has good parts for both"
        )
    target = usable_device(device)
    model = run.model().to(target)
    train = train if model.fits_level_max else ()
    _check(root, (*train, *held))

    total, done = len(train) + len(held), 0

    def step(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    model.fit_level_max(_batches(root, train, run.pixel_path, step))
    level_max = [float(value) for value in model.level_max.tolist()]
    if not np.isfinite(level_max).all():
        raise CalibrationError(
            f"run {run.path}: the largest log-likelihoods {level_max} are not finite numbers; "
            "the model cannot be used, train again with a smaller learning rate"
        )
    images, floors, peaks = [], [], []
    for name, digest in held:
        pixels = run.pixel_path.load(root / name)
        with torch.inference_mode():
            score, heat = model(torch.from_numpy(pixels)[None].to(target))
        if not torch.isfinite(score).all() or not torch.isfinite(heat).all():
            raise CalibrationError(f"run {run.path}: {name} has no finite score; train again")
        part = record.parts.get(name, name)
        images.append(CalibratedImage(name, part, digest, pixel_sha256(pixels), float(score[0])))
        floors.append(float(heat.median()))
        peaks.append(float(heat.max()))
        step(1)

    model_config = run.config.model
    ceiling = model_config.ceiling
    low, high = display_range(float(np.median(floors)), peaks, ceiling)
    write_model(run.path, model)
    calibration = Calibration(
        schema="sanflow.calibration/2",
        created=now(),
        model_sha256=_sha256(run.path / MODEL),
        level_max=tuple(level_max),
        level_max_images=len(train),
        display_low=low,
        display_high=high,
        images=tuple(images),
    )
    # After the model: a crash in between leaves scores of the old model, which are refused.
    text = json.dumps(schema.dump(calibration), indent=1, ensure_ascii=False, allow_nan=False)
    replace_file(run.path / FILE, lambda file: file.write_text(text + "\n", encoding="utf-8"))
    return calibration


def largest(scores: Mapping[str, float], parts: Mapping[str, str]) -> tuple[float, ...]:
    """The largest score of each part, ascending, of scores by image: one per exchangeable part."""
    found: dict[str, float] = {}
    for image, score in scores.items():
        part = parts[image]
        found[part] = max(score, found.get(part, score))
    return tuple(sorted(found.values()))


def load_calibration(run: Run) -> Calibration:
    """Read RUN/calibration.json; raises CalibrationError if there is none for this model."""
    path = run.path / FILE
    remedy = f"run `sanflow calibrate {run.path}`"
    if not path.is_file():
        raise CalibrationError(f"run {run.path} is not calibrated: no {FILE}; {remedy}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{path} is not JSON ({error}); {remedy}") from None
    calibration = schema.load(Calibration, value, FILE)
    if calibration.model_sha256 != _sha256(run.path / MODEL):
        raise CalibrationError(
            f"run {run.path}: {FILE} belongs to another {MODEL}, the model was trained or "
            f"replaced since; {remedy}"
        )
    return calibration


def _evenly(items: Sequence[tuple[str, str]], most: int) -> tuple[tuple[str, str], ...]:
    if len(items) <= most:
        return tuple(items)
    return tuple(items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int))


def _check(root: Path, images: Sequence[tuple[str, str]]) -> None:
    """Every image is there and has the content that the run recorded."""
    if not root.is_dir():
        raise DataError(f"{root}: the run's data set is not there; say where it lies ({_WHERE})")
    missing, changed = [], []
    for name, digest in images:
        path = root / name
        if not path.is_file():
            missing.append(name)
        elif hashlib.sha256(read_bytes(path)).hexdigest() != digest:
            changed.append(name)
    problems = [
        f"{len(names)} {what} ({', '.join(names[:5])}{' and more' if len(names) > 5 else ''})"
        for what, names in (("missing", missing), ("changed since training", changed))
        if names
    ]
    if problems:
        raise DataError(
            f"{root}: of {len(images)} images that the run recorded, {' and '.join(problems)}; "
            f"restore them, say where they lie ({_WHERE}), or train again"
        )


def _batches(
    root: Path,
    images: Sequence[tuple[str, str]],
    pixel_path: PixelPath,
    step: Callable[[int], None],
) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        yield torch.from_numpy(np.stack([pixel_path.load(root / name) for name, _ in part]))
        step(len(part))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
