"""Where an extractor's weights come from: torchvision's download, a file, or nowhere yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import InputError
from .extractor import Backbone


@dataclass(frozen=True)
class WeightsInfo:
    """What was loaded, for the record of a run."""

    source: str
    """`imagenet`, `none`, or the file's name."""
    sha256: str | None = None
    """Of the file, downloaded or given; None for `none`."""
    unused: tuple[str, ...] = ()
    """Top-level parts of the file that the cut extractor does not have, such as `fc`."""


def load_weights(extractor: Backbone, source: str | Path) -> WeightsInfo:
    """Fill the extractor from `imagenet`, `none` or a weights file.

    A file is .safetensors, .pth or .pt (opened without running code) in torchvision's key names;
    it may lack what lies after the last tap. Raises InputError when it cannot be read, lacks a
    key, or a shape differs, and when the download fails.
    """
    if source == "none":
        return WeightsInfo("none")
    path = _download(extractor.weights_url()) if source == "imagenet" else Path(source)
    unused = _fill(extractor, extractor.adapt(read_weights(path)), path)
    return WeightsInfo("imagenet" if source == "imagenet" else path.name, _sha256(path), unused)


def require_weights(source: str | Path) -> None:
    """InputError for a file that is not there, or none of weights by its name."""
    if source in ("imagenet", "none"):
        return
    path = Path(source)
    if not path.is_file():
        raise InputError(f"weights {str(path)!r}: no such file; give a file, 'imagenet' or 'none'")
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(f"weights {path}: expected a .safetensors, .pth or .pt file")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a .safetensors, .pth or .pt file; raises InputError if it is not one."""
    require_weights(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load answers garbage with almost any class
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"weights {path}: cannot be read: {reason}") from error
    for table in ("state_dict", "model"):
        if isinstance(values, Mapping) and isinstance(values.get(table), Mapping):
            values = values[table]
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise InputError(f"weights {path}: expected a table of tensors (a state_dict)")
    return dict(values)


def _fill(extractor: Backbone, values: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    own = extractor.state_dict()
    chosen, missing = {}, []
    for key, tensor in own.items():
        theirs = extractor.prefix + key.removeprefix("body.")
        value = values.get(theirs)
        if value is None:
            if not key.endswith("num_batches_tracked"):
                missing.append(theirs)
        elif value.shape != tensor.shape:
            raise InputError(
                f"weights {path}: {theirs} is {tuple(value.shape)}, expected "
                f"{tuple(tensor.shape)}; is it the right network?"
            )
        else:
            chosen[key] = value
    if missing:
        raise InputError(
            f"weights {path}: {len(missing)} tensors are missing, such as {missing[0]}; "
            f"this extractor is tapped after {extractor.taps[-1]!r}: choose finer taps, or "
            "weights with torchvision's names that reach so far"
        )
    extractor.load_state_dict(chosen, strict=False)
    used = {extractor.prefix + key.removeprefix("body.") for key in chosen}
    depth = extractor.prefix.count(".") + 1
    unused = {".".join(key.split(".")[:depth]) for key in values if key not in used}
    return tuple(sorted(unused))


def _download(url: str) -> Path:
    """Weights in torch's cache, checked by the hash in their name where it has one."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = path.stem.rpartition("-")[2] if "-" in path.stem else None
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"weights 'imagenet': the download of {url} failed ({error}); fetch it elsewhere "
                "and give the file, or use 'none'"
            ) from error
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
