"""Checkpoints: whole or absent, without code in them, and refused when they are something else."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanflow.errors import InputError
from sanflow.training import checkpoint
from sanflow.training.checkpoint import Checkpoint


def a_checkpoint(epochs: int) -> Checkpoint:
    parameter = torch.nn.Parameter(torch.full((3,), float(epochs)))
    adam = torch.optim.Adam([parameter])
    parameter.sum().backward()
    adam.step()
    return Checkpoint(
        model={"flows.0.w": parameter.detach()},
        optimizer=adam.state_dict(),
        scaler={},
        history=[{"epoch": e + 1, "loss": 0.5} for e in range(epochs)],
    )


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    written = a_checkpoint(2)
    checkpoint.save(tmp_path, written)
    read = checkpoint.load(tmp_path)
    assert read is not None
    assert read.history == written.history
    assert torch.equal(read.model["flows.0.w"], written.model["flows.0.w"])
    state, expected = read.optimizer["state"][0], written.optimizer["state"][0]
    assert all(torch.equal(state[k], expected[k]) for k in expected)
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


def test_absent_is_not_an_error(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None


def test_a_crash_while_writing_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, a_checkpoint(1))
    for name in ("fsync", "replace"):
        with monkeypatch.context() as crashing:
            crashing.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError("power lost")))
            with pytest.raises(InputError, match="power lost"):
                checkpoint.save(tmp_path, a_checkpoint(2))
        read = checkpoint.load(tmp_path)
        assert read is not None
        assert len(read.history) == 1
    checkpoint.save(tmp_path, a_checkpoint(3))  # what the crash left is no obstacle
    read = checkpoint.load(tmp_path)
    assert read is not None
    assert len(read.history) == 3


class Payload:
    """Leaves a file when it is unpickled as what it is."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._mark),)


@pytest.mark.parametrize("kind", ["empty", "cut", "text", "code", "other", "rows"])
def test_anything_else_is_refused(tmp_path: Path, kind: str) -> None:
    checkpoint.save(tmp_path, a_checkpoint(1))
    path = tmp_path / checkpoint.NAME
    whole = path.read_bytes()
    if kind == "code":
        torch.save({"history": Payload(tmp_path / "mark")}, path)
    elif kind == "other":
        torch.save({"history": []}, path)
    elif kind == "rows":
        torch.save({"model": {}, "optimizer": {}, "scaler": {}, "history": "ab"}, path)
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-200], "text": b"hello"}[kind])
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_a_flipped_bit_of_a_weight_is_seen(tmp_path: Path) -> None:
    weights = torch.arange(4096.0)
    checkpoint.save(tmp_path, replace(a_checkpoint(1), model={"flows.0.w": weights}))
    path = tmp_path / checkpoint.NAME
    data = bytearray(path.read_bytes())
    data[data.index(weights.numpy().tobytes()) + 5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged: the checksum of .* does not match"):
        checkpoint.load(tmp_path)


def test_pickled_lists_are_refused_too(tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError):
        checkpoint.load(tmp_path)


def test_the_frozen_extractor_is_left_out_and_everything_else_must_fit() -> None:
    def model(width: int) -> torch.nn.ModuleDict:
        parts = {"extractor": torch.nn.Linear(1, 1), "flows": torch.nn.Linear(1, width)}
        return torch.nn.ModuleDict(parts)

    state = checkpoint.learned(model(1))
    assert set(state) == {"flows.weight", "flows.bias"}
    other = model(1)
    checkpoint.restore(other, state)
    assert torch.equal(other["flows"].weight, state["flows.weight"])
    for wrong in (checkpoint.learned(model(2)), {"flows.weight": state["flows.weight"]}):
        with pytest.raises(InputError, match="of another model"):
            checkpoint.restore(other, wrong)
    with pytest.raises(InputError, match="differ, such as head"):
        checkpoint.restore(other, {**state, "head.weight": state["flows.weight"]})
