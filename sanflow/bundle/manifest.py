"""What a bundle's manifest says: its fields, and what each of them may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import InputError
from ..imaging import PixelPath

SCHEMA: Final = "sanflow.bundle/2"
Target = Literal["onnx", "openvino", "tensorrt"]
Kind = Literal["good", "anomaly"]
MAPS = "golden/maps.npy"
REPORT = "report.html"
Precision = Literal["fp32", "fp16", "bf16", "int8"]
LOWER: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
"""The precisions, each one lower than those before it."""
RECIPES: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""What a tensorrt bundle may hold side by side: a device chooses, or falls back, by precision."""
MIN_GOLDENS, MAX_GOLDENS = 8, 256

SHA256 = re.compile(r"[0-9a-f]{64}")
_CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_VERSION = re.compile(r"\d+(\.\d+)*[A-Za-z0-9.+-]*")
_REGION = re.compile(r"[a-z0-9]+(\.[a-z]+)?")


@dataclass(frozen=True)
class Tensor:
    """One input or output of the graph."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _require(bool(self.shape) and min(self.shape) >= 1, f"shape {self.shape} must be positive")


@dataclass(frozen=True)
class ModelInfo:
    """Where the graph came from; for people and reports, no engine needs it."""

    method: str
    extractor: str
    taps: tuple[int, ...]
    pools: tuple[int, ...]
    padding: str
    feature_scale: str
    fusion: str
    image_score: str
    weights: str
    """Where the extractor's weights came from, without a folder."""
    weights_sha256: str | None
    parameters: int
    checkpoint_sha256: str
    """sha256 of the run's model.safetensors that was exported."""

    def __post_init__(self) -> None:
        _hash(self.checkpoint_sha256, "checkpoint_sha256")
        if self.weights_sha256 is not None:
            _hash(self.weights_sha256, "weights_sha256")
        _require(bool(self.taps) and self.parameters >= 1, "needs taps and parameters")
        _require(
            not set("/\\") & set(self.weights),
            f"weights {self.weights!r} must be a name without a folder",
        )

    @property
    def localises(self) -> bool:
        """Whether the map says where; otherwise each of its values is the image's score."""
        return self.image_score != "image"

    @property
    def levels(self) -> int:
        """How many log-likelihood maps were fused, each with its own constant."""
        return len(self.taps) + len(self.pools) if self.localises else 0


@dataclass(frozen=True)
class DataInfo:
    """The data set the model saw: its fingerprint and the size of the two good roles."""

    fingerprint: str
    train: int
    calibrate: int
    parts: int
    """How many parts the calibrate images show: fewer than images where some show the same one."""

    def __post_init__(self) -> None:
        _hash(self.fingerprint, "fingerprint")
        _require(self.train >= 1 and self.calibrate >= 0, "needs at least one training image")
        _require(
            self.parts <= self.calibrate and (self.parts > 0) == (self.calibrate > 0),
            f"{self.parts} parts in {self.calibrate} calibration images",
        )


@dataclass(frozen=True)
class CalibrationInfo:
    """The score constants m_k, which are in every graph already."""

    level_max: tuple[float, ...]


@dataclass(frozen=True)
class Decision:
    """How a raw score becomes a verdict: NG above the threshold, uncertain inside the band."""

    threshold: float
    false_alarm_rate: float | None
    """The bound the threshold was chosen for; None where a person set the threshold."""
    band_low: float
    band_high: float
    display_low: float
    display_high: float

    def __post_init__(self) -> None:
        rate = self.false_alarm_rate
        _require(rate is None or 0 < rate < 1, f"false_alarm_rate {rate} must be in (0, 1)")
        _require(
            self.band_low <= self.threshold <= self.band_high,
            f"threshold {self.threshold} must be inside its band "
            f"[{self.band_low}, {self.band_high}]",
        )
        _require(
            self.display_low < self.display_high,
            f"display_low {self.display_low} must be below display_high {self.display_high}",
        )


SMALL_SCORE = 0.01
"""Scores below this are compared relatively to it: float32 knows K - S only to about 1e-7."""


@dataclass(frozen=True)
class Tolerances:
    """How far an engine may be from PyTorch: relative for scores, absolute for maps."""

    score_relative: float
    band_relative: float
    """Of scores where thresholds are, from the median good part up: what the band contains."""
    map_absolute: float

    def __post_init__(self) -> None:
        values = (self.score_relative, self.band_relative, self.map_absolute)
        _require(min(values) > 0, "tolerances must be positive")


@dataclass(frozen=True)
class Graph:
    """One graph of the bundle, with the decision that belongs to its own scores."""

    precision: Precision
    """The lowest of any region."""
    regions: dict[str, Precision]
    """The precision of each region of the graph."""
    activation: Literal["int8", "uint8"] | None
    """How int8 regions store activations; None where there is no such region."""
    files: tuple[str, ...]
    """Its files; the first is the one an engine is pointed at."""
    scores: tuple[float, ...]
    """Its own scores of all calibration images, ascending."""
    part_scores: tuple[float, ...]
    """The largest of each calibration part, ascending: they let the threshold be moved to another
    false-alarm bound without images or PyTorch."""
    decision: Decision
    tolerances: Tolerances

    def __post_init__(self) -> None:
        _require(list(self.scores) == sorted(self.scores), "scores must be ascending")
        own = list(self.part_scores)
        _require(own == sorted(own), "part_scores must be ascending")
        _require(
            set(own) <= set(self.scores) and own[-1:] == list(self.scores[-1:]),
            "part_scores must be some of the scores, and the largest",
        )
        used = set(self.regions.values())
        for region in self.regions:
            _require(bool(_REGION.fullmatch(region)), f"regions: {region!r} is not a region's name")
        _require(bool(used), "regions must name the graph's regions")
        lowest = max(used, key=LOWER.index)
        _require(
            self.precision == lowest,
            f"precision {self.precision!r} is not the lowest of the regions, {lowest!r}",
        )
        _require(
            (self.activation is not None) == ("int8" in used),
            f"activation {self.activation!r} does not fit regions in {', '.join(sorted(used))}",
        )


@dataclass(frozen=True)
class GoldenEntry:
    """One golden sample: model input pixels as PNG, and PyTorch's score (its map is in MAPS)."""

    image: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class FileEntry:
    """What a file of the bundle must be, to the bit."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _hash(self.sha256, "sha256")
        _require(self.bytes >= 1, f"bytes {self.bytes} must be at least 1")


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself. `digest` is last and covers all the rest."""

    schema: Literal["sanflow.bundle/2"]
    sanflow: str
    created: str
    """UTC, ISO 8601, to the second: 2026-01-31T12:00:00Z."""
    target: Target
    graphs: tuple[Graph, ...]
    """One, or for tensorrt one per precision; the preferred one first."""
    model: ModelInfo
    data: DataInfo
    input: Tensor
    outputs: tuple[Tensor, ...]
    pixels: PixelPath
    calibration: CalibrationInfo
    golden: tuple[GoldenEntry, ...]
    references: dict[str, float]
    """PyTorch's score of calibration images by `imaging.pixel_sha256` of their model input."""
    files: dict[str, FileEntry]
    digest: str

    def __post_init__(self) -> None:
        _require(
            bool(_CREATED.fullmatch(self.created)),
            f"created {self.created!r} is not a time like 2026-01-31T12:00:00Z",
        )
        _require(
            bool(_VERSION.fullmatch(self.sanflow)), f"sanflow {self.sanflow!r} is not a version"
        )
        _check_graphs(self)

    def graph(self, precision: str | None = None) -> Graph:
        """The graph of a precision, the preferred one if none is named.

        Raises InputError that says what there is.
        """
        found = [graph for graph in self.graphs if precision in (None, graph.precision)]
        if not found:
            held = ", ".join(graph.precision for graph in self.graphs)
            again = f", or export the run with --precision {precision}"
            raise InputError(
                f"precision {precision!r}: this bundle holds {held}; name one of these"
                + (again if precision in LOWER else "")
            )
        return found[0]


def graph_files(target: Target, precision: Precision) -> tuple[str, ...]:
    """The files of a graph in a bundle for this target."""
    if target == "openvino":
        return ("model.xml", "model.bin")
    return (f"model.{precision}.onnx",) if target == "tensorrt" else ("model.onnx",)


def golden_name(index: int) -> str:
    """Path of the golden image with this index inside the bundle."""
    return f"golden/{index:03d}.png"


def _check_graphs(manifest: Manifest) -> None:
    """How many graphs a target has, in which precisions, and under which names."""
    target, held = manifest.target, [graph.precision for graph in manifest.graphs]
    if target == "tensorrt":
        _require(
            "fp32" in held and set(held) <= set(RECIPES) and len(set(held)) == len(held),
            f"graphs in {', '.join(held)}: a tensorrt bundle holds fp32, and fp16 and int8 at most "
            "once each",
        )
    else:
        _require(len(held) == 1, f"{len(held)} graphs: an {target} bundle holds one")
    for graph in manifest.graphs:
        used = set(graph.regions.values())
        _require(
            "bf16" not in used or target == "openvino",
            f"bf16 regions need the target openvino, not {target!r}",
        )
        _require(
            target != "tensorrt" or graph.activation != "uint8",
            "activation 'uint8': TensorRT knows int8 activations only",
        )
        files = graph_files(target, graph.precision)
        _require(graph.files == files, f"files {graph.files} of the graph are not {files}")


def _hash(value: str, field: str) -> None:
    _require(bool(SHA256.fullmatch(value)), f"{field} {value!r} is not a lowercase sha256")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
