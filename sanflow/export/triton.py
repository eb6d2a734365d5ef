"""The server form: a bundle as one model of a Triton Inference Server model repository.

    MODELS/screws/config.pbtxt      what the server must know, with the decision as parameters
    MODELS/screws/1/                targets onnx, openvino: the bundle itself, whose graph has the
                                    very name that the server looks for
    MODELS/screws/1/model.plan      target tensorrt: to be built on the server's own GPU, from
    MODELS/screws/bundle/           the recipe; the server passes over a folder with such a name

The bundle stays whole, so `verify` and `doctor` still prove the files that are served. The graph
has a fixed batch, hence max_batch_size 0 and full shapes: the server neither splits nor joins
requests.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .. import schema
from ..bundle import Bundle
from ..bundle.manifest import Manifest, Target, Tensor
from ..errors import InputError

CONFIG = "config.pbtxt"
PLAN = "1/model.plan"
MARK: Final = "sanflow.bundle"
"""The parameter with the bundle's digest; a configuration that has it is one of ours."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


@dataclass(frozen=True)
class _Backend:
    """What the server runs a target with."""

    name: str
    kind: str
    """The instances' kind: what the parity of the export was measured on."""
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    """What whoever starts the server must know or do first."""


_BACKENDS: dict[Target, _Backend] = {
    "onnx": _Backend("onnxruntime", "KIND_CPU"),
    "openvino": _Backend(
        "openvino",
        "KIND_CPU",
        {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"},
        """\
On a processor with BF16 (AVX512-BF16, AMX) this back end computes FP32 graphs in BF16 and has no
key against it: scores leave the tolerance of the export. Serve the target onnx there.
""",
    ),
    "tensorrt": _Backend(
        "tensorrt",
        "KIND_GPU",
        notes="""\
1/model.plan is not here yet, because a plan runs only where it was built. Build it on the server's
GPU, with the TensorRT container of the server's own release YY.MM, in the model repository:
  docker run --rm --gpus all -v "$PWD:/models" nvcr.io/nvidia/tensorrt:YY.MM-py3 \\
    trtexec --stronglyTyped {tf32}--skipInference \\
    --onnx=/models/{model}/bundle/{graph} --saveEngine=/models/{model}/1/model.plan
TensorRT 11 types every graph strongly: leave --stronglyTyped out if it is refused. Nothing proves
that plan but you: replay the golden samples through the server before it judges parts.
""",
    ),
}


def place(target: str) -> str:
    """Where in the model's folder its bundle lies."""
    return "bundle" if target == "tensorrt" else "1"


def config_text(manifest: Manifest, name: str) -> str:
    """The configuration of the model `name`: the preferred graph, in protobuf's text form."""
    graph, backend = manifest.graph(), _BACKENDS[manifest.target]
    file = Path(PLAN).name if manifest.target == "tensorrt" else graph.files[0]
    # Without being asked, TensorRT rounds products of FP32 values to TF32.
    tf32 = "--noTF32 " if graph.precision == "fp32" else ""
    notes = backend.notes.format(model=name, graph=graph.files[0], tf32=tf32)
    lines = [
        *(f"# {line}" for line in notes.splitlines()),
        f'name: "{name}"',
        f'backend: "{backend.name}"',
        f'default_model_filename: "{file}"',
        "max_batch_size: 0",
        _tensor("input", manifest.input),
        *(_tensor("output", tensor) for tensor in manifest.outputs),
        f"instance_group {{ count: 1, kind: {backend.kind} }}",
        f'model_warmup {{ name: "black", batch_size: 1, inputs {{ key: "{manifest.input.name}" '
        f"value {{ {_shape(manifest.input)}, zero_data: true }} }} }}",
        *(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
            for key, value in {**backend.settings, **_decision(manifest)}.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def export_model(
    out: str | os.PathLike[str],
    target: str,
    export: Callable[[Path], Bundle],
    *,
    force: bool = False,
) -> Bundle:
    """Let `export` write a bundle where it is told, and make a server's model of it.

    `out` is the model's folder in a model repository, and its last part the model's name. Raises
    InputError for a name that is none, if something else lies there, or a model and not `force`;
    whatever `export` raises leaves `out` as it was.
    """
    folder = Path(out).absolute()
    if not _NAME.fullmatch(folder.name):
        raise InputError(
            f"--out {out}: {folder.name!r} cannot name a model; give a folder in a model "
            "repository, named with letters, digits, '.', '_' and '-' only: models/screws"
        )
    _check_replaceable(folder, force)
    stage = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        bundle = export(stage / place(target))
        (stage / "1").mkdir(exist_ok=True)
        (stage / CONFIG).write_text(config_text(bundle.manifest, folder.name), "utf-8")
        _move_into_place(stage, folder, force)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Bundle.open(folder / place(target))


def _tensor(role: str, tensor: Tensor) -> str:
    return f'{role} {{ name: "{tensor.name}", {_shape(tensor)} }}'


def _shape(tensor: Tensor) -> str:
    dims = ", ".join(map(str, tensor.shape))
    return f"data_type: {_TYPES[tensor.dtype]}, dims: [ {dims} ]"


def _decision(manifest: Manifest) -> dict[str, str]:
    """What a client needs to turn score and map into a verdict and a picture."""
    graph, roi = manifest.graph(), manifest.pixels.roi
    values = {
        MARK: manifest.digest,
        "sanflow.precision": graph.precision,
        "sanflow.verdict": "NG if score > threshold; no decision unless score and map are finite",
    }
    for name, value in schema.dump(graph.decision).items():
        if value is not None:
            values[f"sanflow.{name}"] = repr(value)
    if roi is not None:
        values["sanflow.roi"] = f"{roi.x},{roi.y},{roi.width},{roi.height}"
    return values


def _check_replaceable(folder: Path, force: bool) -> None:
    """Raise InputError if no model may be written at `folder`; nothing is touched."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: exists and is not a folder; choose another output")
    if not any(folder.iterdir()):
        return
    config = folder / CONFIG
    if not config.is_file() or MARK not in config.read_text("utf-8", "replace"):
        raise InputError(
            f"{folder}: holds files but is no model of sanflow, so it is left alone; choose "
            "another output"
        )
    if not force:
        raise InputError(f"{folder}: a model is there already; replace it with --force")


def _move_into_place(stage: Path, folder: Path, force: bool) -> None:
    """For the length of one rename there may be no model; after it there is the new one."""
    _check_replaceable(folder, force)  # again: hours may have passed
    old = stage.with_suffix(".old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(stage, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
