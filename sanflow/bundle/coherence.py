"""Whether the fields of a manifest fit each other, and its files stay inside the bundle."""

from __future__ import annotations

import re

from ..errors import ConfigError
from .manifest import MAPS, MAX_GOLDENS, MIN_GOLDENS, REPORT, SHA256, Manifest, Tensor, golden_name

_DRIVE = re.compile(r"[A-Za-z]:")
_PLAIN = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


def check(manifest: Manifest) -> None:
    """Refuse fields that contradict each other (ConfigError names the field)."""
    _check_shapes(manifest)
    golden = manifest.golden
    if not MIN_GOLDENS <= len(golden) <= MAX_GOLDENS:
        raise ConfigError(
            f"manifest.golden: {len(golden)} samples, expected {MIN_GOLDENS} to {MAX_GOLDENS}"
        )
    for index, entry in enumerate(golden):
        if entry.image != golden_name(index):
            raise ConfigError(
                f"manifest.golden[{index}].image: {entry.image!r}, expected {golden_name(index)!r}"
            )
    for key in manifest.references:
        if not SHA256.fullmatch(key):
            raise ConfigError(f"manifest.references: {key!r} is not a lowercase sha256")
    _check_files(manifest)


def _check_shapes(manifest: Manifest) -> None:
    height, width = manifest.pixels.height, manifest.pixels.width
    if height < 1 or width < 1:
        raise ConfigError(f"manifest.pixels: {height}x{width} is not a size")
    if len(manifest.input.shape) != 4:
        raise ConfigError(f"manifest.input.shape: {manifest.input.shape} is not (N, H, W, 3)")
    batch = manifest.input.shape[0]
    wanted = Tensor("image", "uint8", (batch, height, width, 3))
    if manifest.input != wanted:
        raise ConfigError(
            f"manifest.input: {manifest.input} does not fit the pixels {height}x{width}, "
            f"expected {wanted}"
        )
    outputs = (
        Tensor("score", "float32", (batch,)),
        Tensor("map", "float32", (batch, height, width)),
    )
    if manifest.outputs != outputs:
        raise ConfigError(f"manifest.outputs: {manifest.outputs} are not {outputs}")
    values = len(manifest.calibration.level_max)
    levels = manifest.model.levels
    if values != levels:
        raise ConfigError(f"manifest.calibration.level_max: {values} values for {levels} levels")
    for index, graph in enumerate(manifest.graphs):
        data = manifest.data
        for name, scores, count, what in (
            ("scores", graph.scores, data.calibrate, "images"),
            ("part_scores", graph.part_scores, data.parts, "parts"),
        ):
            if len(scores) != count:
                raise ConfigError(
                    f"manifest.graphs[{index}].{name}: {len(scores)} scores for {count} {what}"
                )


def _check_files(manifest: Manifest) -> None:
    """Exactly the files of the graphs, under plain relative names: nothing points outside."""
    expected = {name for graph in manifest.graphs for name in graph.files}
    expected |= {MAPS, REPORT, *(entry.image for entry in manifest.golden)}
    folded: dict[str, str] = {}
    for name in manifest.files:
        where = f"manifest.files: {name!r}"
        if name.startswith(("/", "\\")) or _DRIVE.match(name):
            raise ConfigError(f"{where} is an absolute path; only paths inside are allowed")
        if ".." in re.split(r"[/\\]", name):
            raise ConfigError(f"{where} leaves the bundle with '..'")
        if not _PLAIN.fullmatch(name) or "." in name.split("/"):
            raise ConfigError(f"{where} is not a plain path of letters, digits, '.', '_' and '-'")
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(f"{where} differs from {other!r} only by case")
    for name in manifest.files:
        if name not in expected:
            raise ConfigError(
                f"manifest.files: {name!r} does not belong to an {manifest.target} bundle"
            )
    for name in sorted(expected - set(manifest.files)):
        raise ConfigError(f"manifest.files: {name!r} is missing")
