"""Judging a whole source: a folder, a glob or one image, in constant memory.

A few threads read, decode and resize ahead while the engine runs; the queue between them is
bounded. Each image gets exactly one line, in the order of the source, whatever happens to it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .. import imaging
from ..bundle import Bundle
from ..bundle.folder import require_outside
from ..errors import ImageError, InputError, ParityError
from .ahead import ahead
from .detector import Detector, Result, load, no_decision
from .engine import Engine
from .parity import replay_goldens
from .records import LINES, OVERLAYS, SUMMARY, TABLE, Record, Summary, write_summary, writer
from .setting import Gpu
from .sources import Source, find

Overlays = Literal["none", "ng", "all"]

READERS = 2
"""Threads that decode; one engine rarely keeps up with more."""
OVERLAY_SIDE = 1024
"""Longest side of a heat map in pixels; smaller images keep their size."""


def infer(
    bundle: Bundle | str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overlays: Overlays = "none",
    engine: str | Engine | None = None,
    threads: int | None = None,
    precision: str | None = None,
    gpu: Gpu | None = None,
    limit: int | None = None,
    force: bool = False,
    progress: Callable[[Record], None] | None = None,
) -> Summary:
    """Judge every image of `source` and write results.jsonl, results.csv and summary.json.

    overlays/ below `out` gets a heat map of each image, or of each NG one. `out` may hold earlier
    results only with `force`, and never the images themselves. `limit` stops after that many
    images; `progress` is called with each line. An unreadable image, or one on which the engine
    fails, is a NO-DECISION line, not an error. The golden samples are replayed first. Raises
    InputError, BundleError, EngineError or ParityError before the first image is judged.
    """
    if overlays not in get_args(Overlays):
        raise InputError(f"overlays is {overlays!r}, expected none, ng or all")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, expected at least 1")
    folder = Path(out)
    require_outside(bundle.path if isinstance(bundle, Bundle) else bundle, folder)
    if overlays != "none" and folder.resolve().is_relative_to(Path(source).resolve()):
        raise InputError(
            f"{folder} lies in {source}: heat maps there would be taken for parts by the next "
            "command; choose a folder outside"
        )
    found = find(source, skip=folder)
    images = _not_empty(iter(found), source)
    with Detector(bundle, engine, threads, precision=precision, gpu=gpu) as detector:
        _prove(detector)
        _prepare_folder(folder, found, force)
        summary = _summary(detector, found, source)
        begin = time.perf_counter()
        job = _Job(detector, found.root, folder, overlays)
        with writer(folder) as write:
            for record in job.records(itertools.islice(images, limit)):
                write(record)
                summary.count(record)
                if progress is not None:
                    progress(record)
        summary.seconds = round(time.perf_counter() - begin, 3)
        summary.images_per_second = round(summary.images / max(summary.seconds, 1e-3), 2)
        write_summary(folder, summary)
    return summary


def _prove(detector: Detector) -> None:
    """No part is judged by an engine that fails the bundle's golden samples on this machine."""
    found = replay_goldens(detector.engine, detector.bundle)
    if not found.passed:
        raise ParityError(
            f"{detector.bundle.path}: {found.engine} {found.version} does not give PyTorch's "
            f"results here: {'; '.join(found.failures)}. Nothing was judged; give another "
            "--engine, and see: sanflow doctor BUNDLE"
        )


@dataclass(frozen=True)
class _Read:
    """What a reader thread hands over: model input or a NO-DECISION, and pixels for the overlay."""

    path: Path
    input: NDArray[np.uint8] | Result
    picture: NDArray[np.uint8] | None
    decode_ms: float


@dataclass(frozen=True)
class _Job:
    detector: Detector
    root: Path
    out: Path
    overlays: Overlays

    def records(self, images: Iterable[Path]) -> Iterator[Record]:
        """One record per image, in order; the engine sees full batches except the last."""
        size = self.detector.engine.batch * self.detector.engine.in_flight
        reads = ahead(self._read, images, READERS, READERS + 2 * size)
        while lot := list(itertools.islice(reads, size)):
            yield from self._judge(lot)

    def _read(self, path: Path) -> _Read:
        begin = time.perf_counter()
        picture = None
        prepared: NDArray[np.uint8] | Result
        try:
            image = load(self.root / path)
            prepared = self.detector.bundle.pixel_path(image)
            if self.overlays != "none":
                picture = _picture(image, self.detector.bundle.pixel_path)
        except ImageError as error:
            prepared = no_decision("bad_image", str(error))
        except Exception as error:  # one image, whatever is wrong with it, must not end the run
            prepared = no_decision("bad_image", f"{path}: {type(error).__name__}: {error}")
        return _Read(path, prepared, picture, 1e3 * (time.perf_counter() - begin))

    def _judge(self, lot: list[_Read]) -> Iterator[Record]:
        inputs = [read.input for read in lot if isinstance(read.input, np.ndarray)]
        begin = time.perf_counter()
        results = iter(list(self.detector.judge_inputs(inputs)))
        engine_ms = 1e3 * (time.perf_counter() - begin)
        for read in lot:
            if isinstance(read.input, Result):
                yield self._record(read, read.input, 0.0)
            else:
                yield self._record(read, next(results), engine_ms)

    def _record(self, read: _Read, result: Result, engine_ms: float) -> Record:
        done = datetime.now(timezone.utc)
        overlay, detail = None, result.detail
        try:
            overlay = self._overlay(read, result)
        except OSError as error:  # a name too long for ".png" costs the heat map, not the verdict
            detail = f"no heat map: {error}"
        return Record(
            image=read.path.as_posix(),
            verdict=result.verdict,
            score=result.score,
            uncertain=result.uncertain,
            reason=result.reason,
            detail=detail,
            overlay=overlay,
            time=_iso(done),
            decode_ms=round(read.decode_ms, 3),
            engine_ms=round(engine_ms, 3),
            bundle=self.detector.bundle.manifest.digest,
            engine=_engine(self.detector),
            precision=self.detector.engine.graph.precision,
        )

    def _overlay(self, read: _Read, result: Result) -> str | None:
        wanted = self.overlays == "all" or result.verdict == "NG"
        if read.picture is None or result.map is None or not wanted:
            return None
        # The suffix is added, not replaced: a.png and a.jpg may lie side by side.
        path = self.out / OVERLAYS / f"{read.path.as_posix()}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        decision = self.detector.engine.graph.decision
        low, high = decision.display_low, decision.display_high
        heat = imaging.overlay(read.picture, result.map, low, high, decision.threshold)
        imaging.write_png(path, heat)
        return path.relative_to(self.out).as_posix()


def _picture(image: NDArray[np.uint8], path: imaging.PixelPath) -> NDArray[np.uint8]:
    """The region that the model sees, in the image's own resolution up to OVERLAY_SIDE."""
    height, width = (path.roi.height, path.roi.width) if path.roi else image.shape[:2]
    scale = min(1.0, OVERLAY_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return imaging.PixelPath(*size, roi=path.roi)(image)


def _not_empty(images: Iterator[Path], source: str | os.PathLike[str]) -> Iterator[Path]:
    first = next(images, None)
    if first is None:
        suffixes = ", ".join(imaging.IMAGE_SUFFIXES)
        raise InputError(f"{os.fspath(source)}: no images there; a folder may hold {suffixes}")
    return itertools.chain([first], images)


def _prepare_folder(out: Path, source: Source, force: bool) -> None:
    """Nothing of the user's is ever written over: neither images nor, unasked, older results."""
    inside = source.base.resolve()
    if inside == out.resolve() or (out / OVERLAYS).resolve() in (inside, *inside.parents):
        raise InputError(f"{out}: the images lie there; choose another folder for the results")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the results")
    present = [name for name in (LINES, TABLE, SUMMARY, OVERLAYS) if (out / name).exists()]
    if present and not force:
        raise InputError(
            f"{out}: holds {', '.join(present)} already; choose another folder, or replace the "
            "earlier results with --force"
        )
    if OVERLAYS in present and LINES not in present:
        raise InputError(
            f"{out}: its {OVERLAYS}/ is not from an earlier run; choose another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in present:
        if name == OVERLAYS:
            shutil.rmtree(out / name)
        else:
            (out / name).unlink()


def _summary(detector: Detector, found: Source, source: str | os.PathLike[str]) -> Summary:
    return Summary(
        source=os.fspath(source),
        root=str(found.root),
        bundle=detector.bundle.manifest.digest,
        engine=_engine(detector),
        precision=detector.engine.graph.precision,
        threshold=detector.engine.graph.decision.threshold,
        started=_iso(datetime.now(timezone.utc)),
    )


def _engine(detector: Detector) -> str:
    opened = detector.engine
    note = f" ({opened.note})" if opened.note else ""
    return f"{opened.name} {opened.version}{note}"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
