"""What all our pages share: one look, one way to fill a template, numbers written alike."""

from __future__ import annotations

from pathlib import Path

import jinja2

from .bootstrap import Estimate

_HERE = Path(__file__).parent


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of these folders, and the style they share: `include "style.html.j2"`."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"metric": metric, "interval": interval, "percent": percent}
    return made


def metric(value: Estimate | float | None) -> str:
    """A metric between 0 and 1."""
    if value is None:
        return "–"
    number = value.value if isinstance(value, Estimate) else value
    if 0.9995 <= number < 1:  # must not be shown as perfect
        return f"{min(number, 0.9999):.4f}"
    return f"{number:.3f}"


def interval(value: Estimate | None) -> str:
    """The ends of a metric's interval."""
    return "" if value is None else f"{metric(value.low)} – {metric(value.high)}"


def percent(value: float | None) -> str:
    """A share of 1."""
    return "–" if value is None else f"{100 * value:.3g} %"
