"""One picture to judge the synthetic anomalies by: good parts, what training makes of them, masks.

Made by what training makes them with, pasted patches or textured defects, at the model's input
size: what looks wrong here (far too faint, too large, unlike any defect) is wrong in training too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, InputError
from ..imaging import PixelPath, write_png
from .config import DataConfig, SynthConfig, TextureConfig
from .layout import Dataset
from .synthetic import Synthesiser
from .textures import TextureSynthesiser

Image = NDArray[np.uint8]
Make = Callable[
    [Sequence[Image], Sequence[Image], int],
    tuple[Image, NDArray[np.bool_] | NDArray[np.float32]],
]
"""Good parts, others to take content from, and the row: their anomalies and masks."""

_TITLES = {
    "normal": "good part",
    "small": "small rectangle",
    "medium": "medium rectangle",
    "circle": "circle",
}
_TEXTURED = "textured defect"
_SOURCES = 8
"""Good parts that lend patches, at least, where there are so many."""
_SMALLEST, _LARGEST = 160, 256
"""The longer side of a panel on the sheet."""
_MARGIN, _GAP, _GROUP_GAP, _LINE = 24, 4, 20, 26
_PAPER, _INK, _PALE = (250, 250, 248), (32, 36, 44), (120, 126, 136)
_FINE = 4
"""Text is drawn this much larger and shrunk: OpenCV's strokes are coarse at reading size."""


def contact_sheet(
    dataset: Dataset,
    data: DataConfig,
    synth: SynthConfig | TextureConfig,
    height: int,
    width: int,
    seed: int,
    out: Path,
    rows: int = 4,
) -> None:
    """Write a PNG with `rows` good training parts, each beside one anomaly and mask of each kind.

    Kinds with quota 0 are left out; of textured defects there are three. Raises ConfigError where
    synth.enabled is false, DataError without training parts or without the folder of textures,
    ImageError where one cannot be read, InputError where `out` is called like something else.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: a PNG is written; expected a name that ends in .png")
    headings, make = _maker(synth, height, width, seed)
    if not dataset.train:
        raise DataError(f"{dataset.root}: no training parts to draw")
    load = PixelPath(height, width, data.roi).load
    order = np.random.default_rng(seed).permutation(len(dataset.train))
    samples = [dataset.train[i] for i in order[: max(rows, _SOURCES)]]
    parts = [load(sample.path) for sample in samples]

    lines = []
    for row, (part, sample) in enumerate(zip(parts[:rows], samples, strict=False)):
        groups = [[_panel(part)]]
        for image, mask in zip(*make([part] * (len(headings) - 1), parts, row), strict=True):
            groups.append([_panel(image), _panel(_drawn(mask))])
        lines.append((groups, dataset.relative(sample.path)))
    title = f"Synthetic anomalies for {dataset.root.resolve().name}"
    note = f"as training sees them, {width} x {height} px, seed {seed}"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_png(out, _sheet(title, note, headings, lines))


def _maker(
    synth: SynthConfig | TextureConfig, height: int, width: int, seed: int
) -> tuple[list[str], Make]:
    """The columns' headings, and what makes an anomaly with its mask for each but the first."""
    if isinstance(synth, TextureConfig):
        textured = TextureSynthesiser(synth, height, width, seed)
        headings = [_TITLES["normal"], *[_TEXTURED] * 3]
        return headings, lambda parts, sources, row: textured.batch(parts, sources, 0, row)
    if not synth.enabled or not any(synth.quotas[1:]):
        raise ConfigError(
            f"synth.enabled is {str(synth.enabled).lower()} and synth.quotas is {synth.quotas}: "
            "training would make no synthetic anomalies, so there is nothing to draw"
        )
    small, medium, circle = (min(n, 1) for n in synth.quotas[1:])
    pasted = Synthesiser(replace(synth, quotas=(1, small, medium, circle)), height, width, seed)

    def paste(
        parts: Sequence[Image], sources: Sequence[Image], row: int
    ) -> tuple[Image, NDArray[np.bool_]]:
        images, masks = pasted.batch([parts[0], *parts], sources, 0, row)
        return images[1:], masks[1:]

    return [_TITLES[kind] for kind in pasted.kinds], paste


def _sheet(
    title: str, note: str, headings: list[str], lines: list[tuple[list[list[Image]], str]]
) -> Image:
    """Headings over the columns, then for each part its groups of panels and its name."""
    first = lines[0][0]
    high, wide = first[0][0].shape[:2]
    widths = [len(group) * (wide + _GAP) - _GAP for group in first]
    lefts = [_MARGIN + sum(widths[:i]) + i * _GROUP_GAP for i in range(len(widths))]
    head = _MARGIN + 3 * _LINE
    sheet = np.full(
        (
            head + len(lines) * (high + _LINE) + _MARGIN // 2,
            lefts[-1] + widths[-1] + _MARGIN,
            3,
        ),
        _PAPER,
        np.uint8,
    )
    room = sheet.shape[1] - 2 * _MARGIN
    _write(sheet, title, _MARGIN, _MARGIN, room, size=18)
    _write(sheet, note, _MARGIN, _MARGIN + _LINE, room, colour=_PALE)
    for heading, left, group in zip(headings, lefts, first, strict=True):
        _write(sheet, heading, left, head - _LINE, wide)
        if len(group) == 2:
            _write(sheet, "mask", left + wide + _GAP, head - _LINE, wide, colour=_PALE)
    for row, (groups, name) in enumerate(lines):
        top = head + row * (high + _LINE)
        for left, group in zip(lefts, groups, strict=True):
            for i, panel in enumerate(group):
                x = left + i * (wide + _GAP)
                sheet[top : top + high, x : x + wide] = panel
        _write(sheet, name, _MARGIN, top + high + 2, room, size=11, colour=_PALE)
    return sheet


def _panel(image: Image) -> Image:
    """The image at a size to look at: whole factors up, so that its pixels stay visible."""
    side = max(image.shape[:2])
    if side < _SMALLEST:
        factor = -(-_SMALLEST // side)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    scale = min(1.0, _LARGEST / side)
    high, wide = (max(1, round(n * scale)) for n in image.shape[:2])
    return PixelPath(high, wide)(image)


def _drawn(mask: NDArray[np.bool_] | NDArray[np.float32]) -> Image:
    """White where the mask is set, grey where a soft label is below 1, dark elsewhere."""
    grey = (28 + 227 * mask.astype(np.float32)).round().astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _write(
    sheet: Image,
    text: str,
    x: int,
    y: int,
    room: int,
    *,
    size: int = 13,
    colour: tuple[int, int, int] = _INK,
) -> None:
    """Text of `size` pixels' height with its upper left corner at (x, y), in `room` pixels."""
    font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(2, round(size * _FINE / 10))
    scale = cv2.getFontScaleFromHeight(font, round(size * 0.75 * _FINE), thick)
    text = "".join(c if " " <= c <= "~" else "?" for c in text)  # all that the font has
    while (extent := cv2.getTextSize(text, font, scale, thick)[0][0]) > room * _FINE:
        if len(text) <= 4:
            break
        text = "..." + text[4:]
    high = min(_LINE, sheet.shape[0] - y)
    wide = min(-(-(extent + 2 * thick) // _FINE), sheet.shape[1] - x)
    canvas = np.zeros((high * _FINE, wide * _FINE), np.uint8)
    cv2.putText(canvas, text, (thick, size * _FINE), font, scale, 255, thick, cv2.LINE_AA)
    small = cv2.resize(canvas, (wide, high), interpolation=cv2.INTER_AREA)
    weight = np.asarray(small, dtype=np.float32)[:, :, None] / 255
    under = sheet[y : y + high, x : x + wide]
    under[:] = np.rint(under * (1 - weight) + np.array(colour, np.float32) * weight)
