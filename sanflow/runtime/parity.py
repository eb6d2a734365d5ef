"""Parity: does every engine say what PyTorch said, on the goldens and on the user's own images?

PyTorch's side of a golden sample travels in the bundle. For the user's own images it is PyTorch
itself, given as a callable where it is installed, or else the scores that export stored of the
calibration images, which are found again by the hash of their pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import schema
from ..bundle import Bundle
from ..errors import ImageError, InputError
from ..imaging import pixel_sha256
from .comparison import Case, Comparison, Errors, compare
from .engine import Engine
from .registry import available_engines, open_engine
from .setting import Gpu

Reference = Callable[[NDArray[np.uint8]], tuple[float, NDArray[np.float32]]]
"""PyTorch: model input (H, W, 3) -> raw score and anomaly map (H, W)."""
Progress = Callable[[int, int], None]
"""Called with the number of comparisons done and their total."""


@dataclass(frozen=True)
class VerifyReport:
    """What was compared, per engine and set of images, and what could not be."""

    bundle: str
    digest: str
    comparisons: tuple[Comparison, ...]
    skipped: tuple[str, ...]
    """The user's images that could not be compared, each with the reason."""

    @property
    def passed(self) -> bool:
        """Whether every comparison passed."""
        return all(comparison.passed for comparison in self.comparisons)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an infinite error (a score that is not finite) becomes null."""
        comparisons = [{**_finite(schema.dump(c)), "passed": c.passed} for c in self.comparisons]
        return {**schema.dump(self), "comparisons": comparisons, "passed": self.passed}

    def columns(self) -> tuple[str, ...]:
        """The headings of `rows`."""
        errors = ("max", "mean", "p99")
        return (
            *("engine", "precision", "images", "compared"),
            *(f"score error {name}" for name in errors),
            *(f"map error {name}" for name in errors),
            *("rank correlation", "flips", "in band", "result"),
        )

    def rows(self) -> list[tuple[object, ...]]:
        """One row per engine and set of images."""
        return [
            (
                *(f"{c.engine} {c.version}", c.precision, c.source, c.images),
                *_figures(c.score_relative),
                *_figures(c.map_absolute),
                None if c.rank_correlation is None else f"{c.rank_correlation:.6f}",
                *(len(c.flips_outside), len(c.flips) - len(c.flips_outside)),
                "pass" if c.passed else "FAIL",
            )
            for c in self.comparisons
        ]

    def text(self) -> str:
        """One line per failure; one line that says so if there is none."""
        failures = [
            f"{c.engine} {c.version}, {c.precision}, on {c.source}: {failure}"
            for c in self.comparisons
            for failure in c.failures
        ]
        if failures:
            return "\n".join(failures)
        total = sum(c.images for c in self.comparisons)
        beyond = sum(c.beyond for c in self.comparisons)
        within = f"all but {beyond} new images" if beyond else "all"
        where = " outside the band" if any(c.flips for c in self.comparisons) else ""
        return f"{total} comparisons, {within} within tolerance, no verdict flips{where}"


def replay_goldens(
    engine: Engine, bundle: Bundle, step: Callable[[int], None] = lambda images: None
) -> Comparison:
    """Replay the bundle's golden samples; what any engine must pass before it judges parts."""
    cases = (
        Case(entry.image, golden.image, golden.score, golden.map)
        for entry, golden in zip(bundle.manifest.golden, bundle.goldens(), strict=True)
    )
    return compare(engine, cases, "golden", step)


def verify(
    bundle: Bundle,
    engine: str | None = None,
    data: Sequence[Path] = (),
    reference: Reference | None = None,
    *,
    threads: int | None = None,
    precision: str | None = None,
    gpu: Gpu | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare engines with PyTorch on the goldens and on the image files `data`.

    Without `engine`, every installed one that reads this bundle; without `precision`, every graph
    of it. Raises EngineError if there is no engine, InputError if images are given and not one of
    them can be compared, or if there is no graph of that precision.
    """
    manifest = bundle.manifest
    graphs = manifest.graphs if precision is None else (manifest.graph(precision),)
    names = (engine,) if engine else available_engines(manifest.target) or (None,)
    pairs = [(name, graph.precision) for name in names for graph in graphs]
    total, done = len(pairs) * (len(manifest.golden) + len(data)), 0

    def step(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    comparisons: list[Comparison] = []
    skipped: dict[str, str] = {}
    for name, chosen in pairs:
        with open_engine(bundle, name, threads, precision=chosen, gpu=gpu) as opened:
            comparisons.append(replay_goldens(opened, bundle, step))
            if data:
                cases = _own(bundle, data, reference, skipped, step)
                comparisons.append(_compare_own(opened, cases, skipped, reference, step))
    return VerifyReport(
        bundle=str(bundle.path),
        digest=bundle.manifest.digest,
        comparisons=tuple(comparisons),
        skipped=tuple(skipped.values()),
    )


def _own(
    bundle: Bundle,
    data: Sequence[Path],
    reference: Reference | None,
    skipped: dict[str, str],
    step: Callable[[int], None],
) -> Iterator[Case]:
    """The user's images with PyTorch's word on each; those without are entered in `skipped`."""
    for path in data:
        try:
            image = bundle.pixel_path.load(path)
        except ImageError as error:
            skipped[str(path)] = str(error)
            step(1)
            continue
        score = bundle.manifest.references.get(pixel_sha256(image))
        if reference is not None:
            yield Case(str(path), image, *reference(image), known=score is not None)
        elif score is None:
            skipped[str(path)] = f"{path}: no stored PyTorch score"
            step(1)
        else:
            yield Case(str(path), image, score, None)


def _compare_own(
    engine: Engine,
    cases: Iterator[Case],
    skipped: dict[str, str],
    reference: Reference | None,
    step: Callable[[int], None],
) -> Comparison:
    first = next(cases, None)
    if first is None:
        what_else = (
            ". Without PyTorch only the calibration images can be; with it, give the run (--run)"
            if reference is None
            else ""
        )
        raise InputError(
            f"none of the {len(skipped)} images can be compared: "
            f"{next(iter(skipped.values()))}{what_else}"
        )

    def all_cases() -> Iterator[Case]:
        yield first
        yield from cases

    return compare(engine, all_cases(), "images", step)


def _figures(errors: Errors | None) -> tuple[str | None, ...]:
    if errors is None:
        return None, None, None
    return tuple(f"{value:.1e}" for value in (errors.max, errors.mean, errors.p99))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
