"""What papers and released code report, for the column beside our own figures.

The table is papers.toml. All of it was selected on the test set in some way (the best epoch, a
weight, an input size per category), and the rules differ from paper to paper: a reference, no bar.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

from .. import schema
from .plan import Cell

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Paper:
    """A published figure: AUROC of images and of pixels, AUPRO up to 0.3, in percent."""

    data: str
    method: str
    source: str
    category: str = ""
    """Empty: the mean over all."""
    extractor: str = ""
    """Empty: not told apart."""
    preset: str = ""
    """The ablation that it is of; empty: the method itself."""
    image: float | None = None
    pixel: float | None = None
    aupro: float | None = None

    def text(self) -> str:
        """`98.7 / 98.5 / 94.0`, a dash where nothing is reported."""
        values = (self.image, self.pixel, self.aupro)
        return " / ".join("–" if value is None else f"{value:.1f}" for value in values)


@functools.cache
def papers() -> tuple[Paper, ...]:
    """The whole table."""
    text = Path(__file__).with_name("papers.toml").read_text(encoding="utf-8")
    return tuple(
        schema.load(Paper, {**shared, **row}, "papers.toml")
        for shared in tomllib.loads(text)["source"]
        for row in shared.pop("rows")
    )


def find_paper(cell: Cell, category: str) -> Paper | None:
    """The figure nearest to a cell: its own ablation, else its method; its extractor, else any."""
    places, preset = {cell.data, cell.config.data.layout}, cell.preset.removeprefix("edge-")
    extractor = getattr(cell.config.model, "extractor", "")
    found = [
        paper
        for paper in papers()
        if paper.data in places
        and paper.method == cell.method
        and paper.category == category
        and paper.preset in ("", preset)
    ]
    best = sorted(found, key=lambda p: (p.preset != preset, p.extractor != extractor))
    return best[0] if best else None
