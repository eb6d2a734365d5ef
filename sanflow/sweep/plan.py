"""From a sweep's file to its cells: one training each, every choice of it written out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import RunConfig
from ..data.check import check_dataset, require_good_parts
from ..data.config import DataConfig
from ..data.layout import GOOD, Dataset, open_dataset
from ..data.protocols import PROTOCOLS
from ..data.textures import texture_files
from ..errors import ConfigError, DataError
from ..model.weights import require_weights
from ..training.presets import PRESETS, load_config
from .config import OWN, DataEntry, Sweep

Progress = Callable[[int, int], None]
"""Called with the number of images done and their total."""


@dataclass(frozen=True)
class Cell:
    """One training of a sweep, and everything that decides its figures."""

    method: str
    preset: str
    data: str
    """The data set's name."""
    category: str
    """Empty where the data set has none."""
    seed: int
    root: str
    skip_bad: bool
    config: RunConfig
    target: str
    precision: str
    device: str
    threads: int
    gpus: float
    keep_models: bool
    schema: Literal["sanflow.cell/1"] = "sanflow.cell/1"

    @property
    def name(self) -> str:
        """The cell's folder, and what people call it."""
        parts = (self.method, self.preset, self.data, self.category, f"seed{self.seed}")
        return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts if part)


def plan(sweep: Sweep) -> tuple[Cell, ...]:
    """The cells, in the order of data set, category, method, preset, seed.

    Finds every image and reads none. Raises ConfigError for an unknown method, preset or field,
    DataError where a data set, a category of it or a folder of textures is missing or not complete,
    InputError where a file of weights is missing.
    """
    cells = tuple(cell for entry in sweep.config.data for cell in _cells(sweep, entry))
    names = [cell.name for cell in cells]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"data: two data sets make the cell {twice[0]}; give each a name of its own that "
            "differs in the letters a to z, digits or dots: all else is _ in a cell's name"
        )
    for folder in {cell.config.hybrid.textures.folder for cell in cells} - {""}:
        texture_files(folder)
    for weights in {cell.config.weights for cell in cells}:
        require_weights(weights)
    for cell, dataset in _datasets(cells):
        _require_both_labels(cell, dataset)
    return cells


def check_data(cells: Sequence[Cell], progress: Progress | None = None) -> dict[str, str]:
    """Read every image and mask of the cells' data sets once; DataError with all that is bad.

    Images are too small if they are for the largest model that is trained on them. Returns the
    fingerprint of what each cell will train on, by its name, where this one reading tells it.
    """
    fingerprints = {}
    for cell, dataset in _datasets(cells):
        own = [c for c in cells if (c.root, c.config.data) == (cell.root, cell.config.data)]
        models = [c.config.model for c in own]
        size = max(m.height for m in models), max(m.width for m in models)
        report = check_dataset(dataset, cell.config.data, progress, size=size)
        if report.findings and not cell.skip_bad:
            raise DataError(
                f"{report.text()}\nremove or mend these images, or set skip_bad = true for "
                f"{cell.data}"
            )
        require_good_parts(report)
        _require_both_labels(cell, report.dataset_without_bad)
        for c in own:
            # What is too small for the largest model may be left in for another.
            if not report.findings or (c.config.model.height, c.config.model.width) == size:
                fingerprints[c.name] = report.fingerprint
    return fingerprints


def require_same_images(cells: Sequence[tuple[Cell, str]]) -> None:
    """DataError where cells, each with its data's fingerprint, were trained on different images.

    The images of the last cell of a data set are taken for those that are there now.
    """
    groups: dict[object, list[tuple[Cell, str]]] = {}
    for cell, fingerprint in cells:
        model = cell.config.model
        # Where bad images are left out, the model's size has a say in which ones are too small.
        size = (model.height, model.width) if cell.skip_bad else None
        key = cell.root, cell.config.data, size
        groups.setdefault(key, []).append((cell, fingerprint))
    for group in groups.values():
        last, now = group[-1]
        if other := [cell.name for cell, fingerprint in group if fingerprint != now]:
            raise DataError(
                f"{last.root}: the cells {', '.join(other)} were "
                f"trained on other images than {last.name} is, and the leaderboard would average "
                "or compare them; restore the images, or remove the folders of these cells below "
                "OUT/cells to train them again, or give another --out"
            )


def _require_both_labels(cell: Cell, dataset: Dataset) -> None:
    labels = {sample.label == GOOD for sample in dataset.test}
    if labels != {True, False}:
        lacking = "defective" if True in labels else "good"
        raise DataError(
            f"{dataset.root}: {cell.data} has no {lacking} test images that can be used; a sweep "
            "measures every cell on good and defective ones"
        )


def _datasets(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Dataset]]:
    """Each data set that the cells use, once, with the first cell that uses it."""
    seen: list[tuple[str, DataConfig]] = []
    for cell in cells:
        if (cell.root, cell.config.data) not in seen:
            seen.append((cell.root, cell.config.data))
            yield cell, open_dataset(Path(cell.root), cell.config.data)


def _cells(sweep: Sweep, entry: DataEntry) -> Iterator[Cell]:
    config = sweep.config
    root = (sweep.base / entry.root).resolve()
    for category, method, preset, seed in itertools.product(
        _categories(root, entry), config.methods, config.presets, config.seeds
    ):
        overrides = sweep.overrides(method)
        overrides |= {"data.layout": entry.layout, "data.category": category, "optim.seed": seed}
        name = _preset(entry, method, preset, category)
        yield Cell(
            method=method,
            preset=preset,
            data=entry.name or root.stem,
            category=category or "",
            seed=seed,
            root=str(root),
            skip_bad=entry.skip_bad,
            config=load_config(name, None, overrides, method),
            target=config.target,
            precision=config.precision,
            device=config.device,
            threads=config.threads,
            gpus=config.gpus,
            keep_models=config.keep_models,
        )


def _preset(entry: DataEntry, method: str, preset: str, category: str | None) -> str | None:
    """Its name; None for the method's own."""
    if entry.category_presets:
        if preset != OWN:
            raise ConfigError(
                "category_presets: its cells are trained with METHOD-CATEGORY, not with "
                f"{preset!r} of presets, whose name they would bear; leave presets out (or "
                f"{OWN!r}), and give other presets a sweep of their own"
            )
        for name in (f"{entry.layout}-{category}", category):
            if f"{method}-{name}" in PRESETS:
                return name
        raise ConfigError(
            f"category_presets: {method} has none for {category} of {entry.layout}; leave it out"
        )
    return None if preset == OWN else preset


def _categories(root: Path, entry: DataEntry) -> tuple[str | None, ...]:
    if entry.categories:
        return entry.categories
    if entry.layout not in PROTOCOLS:
        return (None,)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it is a data set of the sweep")
    return PROTOCOLS[entry.layout].categories(root)
