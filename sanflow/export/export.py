"""From a calibrated run to a bundle whose engine gives PyTorch's verdicts, or to no bundle at all.

The graph, the decision and the goldens are written beside the output folder, opened as on the line,
and replayed through every engine on this machine that reads the target. Only if no verdict flips
outside the uncertain band and every error is within tolerance does the bundle take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from .. import __version__
from ..bundle import Bundle, Decision, staged_bundle
from ..bundle import manifest as m
from ..bundle.contents import PAGE_HEAD
from ..bundle.write import check_replaceable
from ..calibration.calibrate import CalibratedImage, Calibration, load_calibration
from ..errors import CalibrationError, DataError, InputError, ParityError
from ..imaging import pixel_sha256
from ..model.sanflow import SANFlow
from ..run import Run
from ..runtime.comparison import SMALL_SCORE
from ..runtime.parity import verify
from ..runtime.registry import available_engines
from .goldens import Goldens, make_goldens
from .graph import to_onnx
from .plan import regions_of
from .reference import torch_reference

TOLERANCES = m.Tolerances(score_relative=1e-4, map_absolute=1e-3)
PARITY_IMAGES = 200
"""Calibration images that parity replays, evenly spaced over their scores; also the references."""
GRAPH_STEPS = 20
"""Share of the progress that making the graph is given, in images."""

Progress = Callable[[int, int], None]
"""Called with the steps done and their total."""
Judged = dict[str, tuple[float, NDArray[np.float32]]]
"""PyTorch's score and map by the hash of the model input."""


def export_run(
    run: Run,
    out: Path,
    target: str = "onnx",
    *,
    batch: int = 1,
    false_alarm_rate: float = 0.01,
    data: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Export a calibrated run for `target` (onnx or openvino) into the folder `out`.

    `data` is where the run's data set lies now, if it has moved. An existing bundle is replaced
    only with `force`. Raises CalibrationError when the run is not calibrated or has too few
    parts for the false-alarm rate, DataError when its images are missing or changed, ParityError
    when an engine does not give PyTorch's verdicts; then nothing is left at `out`.
    """
    if target not in m.GRAPHS:
        raise InputError(f"target {target!r} is not one of {', '.join(m.GRAPHS)}")
    check_replaceable(Path(out).absolute(), force)
    calibration = load_calibration(run)
    decision = calibration.decision(false_alarm_rate)
    chosen = _spread(calibration.images)
    paths = _paths(run, chosen, data)
    engines = len(available_engines(target))
    total = len(chosen) + GRAPH_STEPS + engines * (len(chosen) + m.MIN_GOLDENS)
    report = progress or (lambda done, total: None)

    model = run.model()
    inputs = _inputs(run, chosen, paths)
    judged = _judge(model, chosen, inputs, lambda done: report(done, total))
    goldens = make_goldens(inputs, run.config.synth, torch_reference(model))
    graph = to_onnx(model, batch)
    regions = regions_of(graph)
    done = len(chosen) + GRAPH_STEPS
    report(done, total)

    draft = _manifest(run, model, calibration, decision, goldens, judged, target, batch, regions)
    page = (PAGE_HEAD + "</head></html>\n").encode()
    contents = {**_graph_files(graph, target), **goldens.contents(), m.REPORT: page}
    with staged_bundle(out, draft, contents, force=force) as staged:
        found = verify(
            staged,
            data=paths,
            reference=lambda image: judged[pixel_sha256(image)],
            progress=lambda part, whole: report(done + round(part / whole * (total - done)), total),
        )
        if not found.passed:
            raise ParityError(f"{out}: no bundle was written: {found.text()}")
    return Bundle.open(out)


def _spread(images: Sequence[CalibratedImage]) -> list[CalibratedImage]:
    """At most PARITY_IMAGES of them, by score, the lowest and the highest included."""
    ordered = sorted(images, key=lambda image: (image.score, image.path))
    count = min(len(ordered), PARITY_IMAGES)
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, count).round().astype(int)]


def _paths(run: Run, images: Sequence[CalibratedImage], data: Path | None) -> list[Path]:
    root = Path(run.record.data.root) if data is None else Path(data)
    root = root.parent if root.is_file() else root  # a CSV manifest's images lie beside it
    missing = [image.path for image in images if not (root / image.path).is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(images)} calibration images are not there "
            f"({', '.join(missing[:5])}); say where the run's data set lies with --data"
        )
    return [root / image.path for image in images]


def _inputs(
    run: Run, images: Sequence[CalibratedImage], paths: Sequence[Path]
) -> list[NDArray[np.uint8]]:
    """Model inputs (H, W, 3), each checked to be what was calibrated on."""
    inputs = []
    for image, path in zip(images, paths, strict=True):
        pixels = run.pixel_path.load(path)
        if pixel_sha256(pixels) != image.pixel_sha256:
            raise DataError(
                f"{path}: not the pixels that the run was calibrated on; restore the image, or "
                f"run `sanflow calibrate {run.path}` again"
            )
        inputs.append(pixels)
    return inputs


def _judge(
    model: SANFlow,
    images: Sequence[CalibratedImage],
    inputs: Sequence[NDArray[np.uint8]],
    step: Callable[[int], None],
) -> Judged:
    """PyTorch on the calibration images, here and now: what the engines are compared with.

    The scores must be those of the calibration up to rounding, or the threshold means nothing.
    """
    reference = torch_reference(model)
    judged: Judged = {}
    for done, (image, pixels) in enumerate(zip(images, inputs, strict=True), start=1):
        score, heat = reference(pixels)
        # Ten tolerances: another processor, or a GPU in FP32, may have calibrated.
        if not abs(score - image.score) <= 10 * TOLERANCES.score_relative * max(
            abs(image.score), SMALL_SCORE
        ):
            raise CalibrationError(
                f"{image.path}: the model's score is {score:.6g}, its calibration says "
                f"{image.score:.6g}; calibrate the run again, on the CPU"
            )
        judged[image.pixel_sha256] = score, heat
        step(done)
    return judged


def _graph_files(graph: onnx.ModelProto, target: m.Target) -> dict[str, bytes]:
    if target == "onnx":
        return {"model.onnx": graph.SerializeToString(deterministic=True)}
    from .openvino import to_ir  # OpenVINO is needed for its own target only

    xml, weights = to_ir(graph)
    return {"model.xml": xml, "model.bin": weights}


def _manifest(
    run: Run,
    model: SANFlow,
    calibration: Calibration,
    decision: Decision,
    goldens: Goldens,
    judged: Judged,
    target: m.Target,
    batch: int,
    regions: tuple[str, ...],
) -> m.Manifest:
    config, record = run.config.model, run.record
    height, width = config.height, config.width
    return m.Manifest(
        schema=m.SCHEMA,
        sanflow=__version__,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        target=target,
        precision="fp32",
        regions=dict.fromkeys(regions, "fp32"),
        activation=None,
        model=m.ModelInfo(
            method="sanflow",
            extractor=config.extractor,
            taps=config.taps,
            pools=config.pools,
            padding=config.padding,
            feature_scale=config.feature_scale,
            fusion=config.fusion,
            image_score=config.image_score,
            weights=record.weights.source,
            weights_sha256=record.weights.sha256,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            checkpoint_sha256=calibration.model_sha256,
        ),
        data=m.DataInfo(
            fingerprint=record.data.fingerprint,
            train=len(record.data.roles["train"]),
            calibrate=len(calibration.images),
        ),
        input=m.Tensor("image", "uint8", (batch, height, width, 3)),
        outputs=(
            m.Tensor("score", "float32", (batch,)),
            m.Tensor("map", "float32", (batch, height, width)),
        ),
        pixels=run.pixel_path,
        calibration=m.CalibrationInfo(calibration.level_max, calibration.scores),
        decision=decision,
        tolerances=TOLERANCES,
        golden=goldens.entries(),
        references={key: score for key, (score, _) in judged.items()},
        files={},
        digest="",
    )
