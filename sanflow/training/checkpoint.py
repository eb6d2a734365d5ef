"""The state between two epochs, written so that a reader sees all of the old or all of the new.

Every random draw of training follows from (seed, epoch, step), so weights, optimiser and the
number of finished epochs are the whole state: a resumed run ends with the same bits. The frozen
extractor is not in it; it stands in the run's own model file from the beginning.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..run import replace_file

NAME = "checkpoint.pt"
FROZEN = "extractor."


@dataclass(frozen=True)
class Checkpoint:
    """Training after as many epochs as `history` has rows."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    history: list[dict[str, float]]
    """One row of metrics per finished epoch."""


def learned(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state without the frozen extractor."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith(FROZEN)}


def save(run: Path, checkpoint: Checkpoint, name: str = NAME) -> None:
    """Replace RUN/checkpoint.pt; after a power loss it is the old one or this one, whole."""
    # Not asdict: it would copy every tensor.
    values = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}

    def write(part: Path) -> None:
        try:
            with part.open("wb") as file:  # given a path, torch does not say what the system said
                torch.save(values, file)
        except RuntimeError as error:  # torch ends its archive even when it could not be written
            raise error.__context__ or error from None

    replace_file(run / name, write)


def load(run: Path, name: str = NAME) -> Checkpoint | None:
    """RUN/checkpoint.pt on the CPU, None where there is none; InputError if it is not one."""
    path = run / name
    if not path.is_file():
        return None
    try:
        if not zipfile.is_zipfile(path):  # else torch would try its own formats of before 2020
            raise ValueError("not a zip archive, or cut short")
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch compares no checksum
                raise ValueError(f"damaged: the checksum of {damaged} does not match")
        found = Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
        tables = (found.model, found.optimizer, found.scaler, *found.history)
        if not all(isinstance(table, dict) for table in tables):
            raise TypeError("its fields are not tables")
        return found
    except Exception as error:  # torch.load answers garbage with almost any class
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{path}: not a checkpoint of this version ({reason}); "
            "remove the run and train again, or give another --out"
        ) from None


def restore(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give the model what `learned` took from it; InputError if it is another model's."""
    try:
        found = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]  # torch lists every key
        raise InputError(f"{NAME} is of another model: {reason}; give another --out") from None
    missing = [key for key in found.missing_keys if not key.startswith(FROZEN)]
    if differing := (*missing, *found.unexpected_keys):
        raise InputError(
            f"{NAME} is of another model: its tensors differ, such as {differing[0]}; "
            "give another --out"
        )
