"""What `sanflow evaluate` is given: a run, scored by PyTorch, or a bundle, scored by its engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, InputError
from .options import false_alarm_rate, finished_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..bundle import Decision
    from ..data.config import DataConfig
    from ..data.layout import Sample
    from ..evaluation.evaluate import Seen
    from ..imaging import PixelPath


@dataclass(frozen=True)
class Subject:
    """What is evaluated on which test images."""

    samples: tuple[Sample, ...]
    root: Path
    scorer: Callable[[Path], tuple[float, NDArray[np.float32]]]
    pixel_path: PixelPath
    decision: Decision
    localises: bool
    """Whether its maps say where."""
    description: dict[str, str]
    seen: Seen


@contextmanager
def open_subject(
    path: Path,
    data: Path,
    *,
    layout: str | None,
    category: str | None,
    rate: float | None,
    engine: str | None,
    threads: int | None,
    precision: str | None,
    device: str,
) -> Iterator[Subject]:
    """Open a run or a bundle with the test images of `data`; InputError if it is neither."""
    given = {k: v for k, v in (("layout", layout), ("category", category)) if v is not None}
    if (path / "run.json").is_file():
        if (engine, threads, precision) != (None, None, None):
            raise InputError(
                f"{path} is a run, which PyTorch scores; --engine, --threads and --precision are "
                "for bundles"
            )
        yield _run(path, data, given, rate, device)
    elif (path / "manifest.json").is_file():
        if rate is not None:
            raise InputError(
                f"{path} is a bundle and has its threshold; change it with `sanflow threshold`"
            )
        with _bundle(path, data, given, engine, threads, precision) as subject:
            yield subject
    else:
        raise InputError(
            f"{path}: neither a run (run.json) nor a bundle (manifest.json) is there; "
            "make one with `sanflow train` or `sanflow export`"
        )


def _run(
    path: Path, data: Path, given: Mapping[str, str], rate: float | None, device: str
) -> Subject:
    from ..calibration.calibrate import load_calibration
    from ..data.layout import open_dataset
    from ..evaluation.subject import run_scorer, run_subject, seen_images

    run = finished_run(path)
    calibration = load_calibration(run)
    dataset = open_dataset(data, _changed(run.config.data, given))
    return Subject(
        samples=dataset.test,
        root=dataset.root,
        scorer=run_scorer(run, device),
        pixel_path=run.pixel_path,
        decision=calibration.decision(false_alarm_rate(rate, calibration)),
        localises=run.config.model.localises,
        description=run_subject(run),
        seen=seen_images(run),
    )


@contextmanager
def _bundle(
    path: Path,
    data: Path,
    given: Mapping[str, str],
    engine: str | None,
    threads: int | None,
    precision: str | None,
) -> Iterator[Subject]:
    from ..data.config import DataConfig
    from ..data.layout import open_dataset
    from ..evaluation.subject import bundle_subject, seen_pixels
    from ..runtime import Detector

    with Detector(path, engine, threads, precision=precision) as detector:

        def score(image: Path) -> tuple[float, NDArray[np.float32]]:
            result = detector.judge(image)
            if result.score is None or result.map is None:
                raise ImageError(f"{image}: {result.detail}")
            return result.score, result.map

        manifest, graph = detector.bundle.manifest, detector.engine.graph
        config = _changed(DataConfig(roi=manifest.pixels.roi), given)
        dataset = open_dataset(data, config)
        name = f"{detector.engine.name} {detector.engine.version}"
        yield Subject(
            samples=dataset.test,
            root=dataset.root,
            scorer=score,
            pixel_path=detector.bundle.pixel_path,
            decision=graph.decision,
            localises=manifest.model.localises,
            description=bundle_subject(manifest, graph, path.resolve().name, name),
            seen=seen_pixels(detector.bundle),
        )


def _changed(config: DataConfig, given: Mapping[str, str]) -> DataConfig:
    from .. import schema
    from ..data.config import DataConfig

    return schema.load(DataConfig, {**schema.dump(config), **given}, "data")
