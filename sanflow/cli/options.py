"""The options that several commands share, and how flags become a run's configuration."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..calibration.threshold import USUAL_RATE, usual_rate
from ..errors import InputError
from . import show

if TYPE_CHECKING:
    from ..calibration.calibrate import Calibration
    from ..config import RunConfig
    from ..run import Run
    from ..runtime.setting import CudaChoice, Gpu

DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="A folder in MVTec AD layout, a folder of good images, a CSV manifest, or a public "
        "data set (--layout).",
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", show_default=False, help="A run made by `sanflow train`.")
]
BundleArgument = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE", show_default=False, help="A bundle made by `sanflow export`."),
]
RunOrBundleArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN|BUNDLE", show_default=False, help="What to evaluate."),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:N, for what PyTorch computes.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output instead.")
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="onnxruntime, openvino, tensorrt, tensorrt-rtx or onnxruntime-cuda; default: as tuned "
        "on this machine, else the bundle's own.",
    ),
]
EveryEngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="onnxruntime, openvino, tensorrt, tensorrt-rtx or onnxruntime-cuda; default: every "
        "one here that reads the bundle.",
    ),
]
TexturesOption = Annotated[
    Path | None,
    typer.Option("--textures", help="Folder of pictures whose content makes cls-cnf's defects."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="Which graph of a tensorrt bundle; default: its first."),
]
EveryPrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="Which graph of a tensorrt bundle; default: all."),
]
CudaOption = Annotated[
    Literal["auto", "cuda-python", "pycuda"],
    typer.Option("--cuda-backend", help="Python package for CUDA memory; auto: the first there."),
]
FallbackOption = Annotated[
    bool,
    typer.Option(
        "--allow-fallback",
        help="TensorRT: where the precision fails, let the next higher one step in, and say so.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of the engine; default: its own.")
]
FalseAlarmOption = Annotated[
    float | None,
    typer.Option(
        "--false-alarm-rate",
        help="Largest share of good parts that may be rejected; the threshold guarantees it. "
        "Default: 0.01, or the smallest that the held-out parts can bound.",
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="A named configuration; default: the method's own. edge is for a 2-core PC.",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option("--method", help="sanflow (default), cflow, cflow-sp, fastflow, sanf-ad, ..."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file whose values replace the preset's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="One field, e.g. model.blocks=4. May be repeated."
    ),
]
SizeOption = Annotated[
    str | None, typer.Option("--size", help="Model input, N or HEIGHTxWIDTH, in pixels.")
]
MovedDataOption = Annotated[
    Path | None, typer.Option("--data", help="Where the run's data set lies, if it moved.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
RoiOption = Annotated[
    str | None,
    typer.Option(
        "--roi", metavar="X,Y,WIDTH,HEIGHT", help="The part of each image to look at, in pixels."
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout",
        help="auto, mvtec, folder, csv; public data sets: mvtec-ad, visa, btad, mtd, stc, classes. "
        "Default: auto.",
    ),
]
CategoryOption = Annotated[
    str | None,
    typer.Option("--category", help="Which product, scene or class of a data set with several."),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without the images that the check found bad.")
]


def gpu_options(cuda_backend: CudaChoice, allow_fallback: bool) -> Gpu | None:
    """What was asked of the engines on a GPU; None if nothing was."""
    from ..runtime.setting import Gpu

    asked = Gpu(cuda_backend, allow_fallback)
    return None if asked == Gpu() else asked


def finished_run(path: Path) -> Run:
    """The run in the folder `path`; InputError if it is none, or its training has not ended."""
    from ..run import open_run
    from ..training import checkpoint

    run = open_run(path)
    if not run.record.progress.finished:
        kept = checkpoint.load(path)
        done = len(kept.history) if kept else 0
        raise InputError(
            f"{path}: trained for {done} of {run.config.optim.epochs} epochs so far; first finish "
            f"it: `sanflow train {run.record.data.root} --out {path} --resume`"
        )
    return run


def false_alarm_rate(asked: float | None, calibration: Calibration) -> float:
    """The rate that was asked for, else 1 %, or the smallest bound that the good parts give."""
    if asked is not None:
        return asked
    rate = usual_rate(len(calibration.part_scores))
    if rate > USUAL_RATE:
        show.note(
            f"{calibration.held()} bound false alarms at {100 * rate:.3g} % at best, "
            f"which is used; a bound of {100 * USUAL_RATE:g} % needs "
            f"{math.ceil(1 / USUAL_RATE) - 1} parts"
        )
    return rate


def run_config(
    base: str | RunConfig | None = None,
    config: Path | None = None,
    sets: list[str] | None = None,
    *,
    method: str | None = None,
    size: str | None = None,
    roi: str | None = None,
    **fields: object,
) -> RunConfig:
    """The preset or configuration, then the TOML file, then `--set`, then the flags; a later wins.

    `fields` are dotted names with `__` for the dot; None means the flag was not given.
    Raises ConfigError for an unknown field or a bad value, InputError for a malformed flag.
    """
    from ..training.presets import load_config

    overrides = dict(_assignment(text) for text in sets or [])
    overrides |= {k.replace("__", "."): v for k, v in fields.items() if v is not None}
    if size is not None:
        overrides["model.height"], overrides["model.width"] = _size(size)
    if roi is not None:
        overrides["data.roi"] = _roi(roi)
    return load_config(base, config, overrides, method)


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text!r}: expected KEY=VALUE, for example model.blocks=4")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value  # a bare word is text: model.extractor=resnet18


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise InputError(f"--size {text!r}: expected N or HEIGHTxWIDTH, for example 256 or 192x320")
    return int(match[1]), int(match[2] or match[1])


def _roi(text: str) -> dict[str, int]:
    match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text.replace(" ", ""))
    if not match:
        raise InputError(
            f"--roi {text!r}: expected X,Y,WIDTH,HEIGHT in pixels, for example 40,0,640,480"
        )
    return dict(zip(("x", "y", "width", "height"), map(int, match.groups()), strict=True))
