"""What is evaluated: how a run scores an image, and what a report says about a run or a bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import schema
from ..bundle import Bundle, Graph, Manifest
from ..bundle.manifest import ModelInfo
from ..config import RunConfig
from ..imaging import pixel_sha256, read_bytes
from ..model.device import usable_device
from ..model.options import AnyConfig
from ..run import Run
from .evaluate import Scorer, Seen


def run_scorer(run: Run, device: str = "cpu") -> Scorer:
    """Score images by PyTorch, one at a time, on `device`: auto, cpu, cuda or cuda:N."""
    target = usable_device(device)
    model, pixel_path = run.model().to(target), run.pixel_path

    def score(path: Path) -> tuple[float, NDArray[np.float32]]:
        pixels = torch.from_numpy(pixel_path.load(path))[None].to(target)
        with torch.inference_mode():
            scores, maps = model(pixels)
        heat: NDArray[np.float32] = maps[0].float().cpu().numpy()
        return float(scores[0]), heat

    return score


def seen_images(run: Run) -> Seen:
    """Which role an image file had in the run, by its bytes."""
    roles = run.record.data.roles
    known = {digest: role for role in ("train", "calibrate") for _, digest in roles.get(role, ())}
    return lambda path: known.get(hashlib.sha256(read_bytes(path)).hexdigest())


def seen_pixels(bundle: Bundle) -> Seen:
    """Whether an image is one of the calibration images that the bundle lists, by its pixels."""
    known = bundle.manifest.references

    def role(path: Path) -> str | None:
        return "calibrate" if pixel_sha256(bundle.pixel_path.load(path)) in known else None

    return role


def run_subject(run: Run) -> dict[str, str]:
    """A run's provenance, for people."""
    record, model = run.record, run.config.model
    roles = {role: len(images) for role, images in record.data.roles.items()}
    weights = record.weights.source
    if record.weights.sha256 is not None:
        weights += f" (sha256 {record.weights.sha256[:12]})"
    finished = "" if record.progress.finished else ", not finished"
    return {
        "What": f"run {run.path.resolve().name}",
        "Engine": f"PyTorch {record.versions.get('torch', '')}".strip(),
        "Trained": f"{record.created}, {record.progress.epochs_done} epochs{finished}",
        "Method": model.method,
        "Extractor": _extractor(model),
        "Weights": weights,
        "Image size": f"{model.height} x {model.width} (height x width)",
        "Score": _score(model),
        "Data": f"{record.data.layout}, fingerprint {record.data.fingerprint[:12]}",
        "Images of the run": ", ".join(f"{count} {role}" for role, count in roles.items()),
        "Software": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "Not at its default": ", ".join(_changed(run.config)) or "nothing",
    }


def bundle_subject(manifest: Manifest, graph: Graph, name: str, engine: str) -> dict[str, str]:
    """A bundle's provenance, for people; `engine`, name and version, scored with `graph`."""
    model, data = manifest.model, manifest.data
    return {
        "What": f"bundle {name}",
        "Engine": engine,
        "Exported": f"{manifest.created}, target {manifest.target}, {graph.precision}",
        "Method": model.method,
        "Extractor": _extractor(model),
        "Weights": model.weights,
        "Image size": f"{manifest.pixels.height} x {manifest.pixels.width} (height x width)",
        "Score": _score(model),
        "Data": f"fingerprint {data.fingerprint[:12]}",
        "Images of the run": f"{data.train} train, {data.calibrate} calibrate",
        "Software": f"sanflow {manifest.sanflow}",
        "Digest": manifest.digest,
    }


def _extractor(model: ModelInfo | AnyConfig) -> str:
    strides = ", ".join(map(str, model.taps))
    return f"{model.extractor}, strides {strides}" if strides else model.extractor


def _changed(config: RunConfig) -> list[str]:
    """`name = value` of every option that differs from its default; the weights have their row."""
    model = type(config.model)(method=config.method)  # type: ignore[arg-type]  # its own name
    default = _flat({**schema.dump(RunConfig()), "model": schema.dump(model)})
    given = _flat(schema.dump(config))
    names = [n for n, value in given.items() if value != default.get(n) and n != "weights"]
    return [f"{name} = {given[name]}" for name in names]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    inner = (_flat(item, f"{name}.{key}" if name else key) for key, item in value.items())
    return {key: item for part in inner for key, item in part.items()}


def _score(model: AnyConfig | ModelInfo) -> str:
    if not model.localises:
        return "of the image as a whole"
    return f"{model.fusion} fusion, {model.image_score} of the map"
