"""Two real processes on the CPU: one set of weights, one writer, both halves of the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sanflow import schema
from sanflow.config import RunConfig
from sanflow.errors import InputError
from sanflow.run import open_run
from sanflow.training.distributed import Group

WORKER = """
import hashlib, json, os, sys
from pathlib import Path

import torch

from sanflow import schema
from sanflow.config import RunConfig
from sanflow.training import journal, loop
from sanflow.training.train import train

torch.set_num_threads(1)
parts, out, notes, config = sys.argv[1:5]
config = schema.load(RunConfig, json.loads(config))
seen = []


class Watched(journal.Journal):
    def epoch(self, means, images, started):
        digest = hashlib.sha256()
        for tensor in self.loop.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        seen.append({"digest": digest.hexdigest(), "loss": means["loss"]})
        super().epoch(means, images, started)


sys.modules["sanflow.training.train"].Journal = Watched
steps = []
run = train(Path(parts), Path(out), config, resume="--resume" in sys.argv, device="cpu",
            progress=lambda status: steps.append(status.done))
rank = os.environ["RANK"]
Path(notes, rank).write_text(json.dumps({
    "seen": seen, "steps": len(steps), "finished": run.record.progress.finished}))
"""


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    worker = folder / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),  # a script's own folder is not the repository
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(
        [*command, str(worker), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_two_processes_hold_the_same_weights_and_one_writes(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    out, notes = tmp_path / "run", tmp_path / "notes"
    notes.mkdir()
    text = json.dumps(schema.dump(config))
    done = launch(tmp_path, str(parts), str(out), str(notes), text)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((notes / rank).read_text()) for rank in "01")
    assert first["finished"]
    assert second["finished"]
    assert len(first["seen"]) == config.optim.epochs
    assert first["seen"] == second["seen"]
    assert len({epoch["digest"] for epoch in first["seen"]}) == config.optim.epochs
    assert first["steps"] > 0
    assert second["steps"] == 0
    assert open_run(out).record.progress.finished
    assert not list(out.glob(".*"))


def test_a_process_alone_changes_nothing() -> None:
    group = Group()
    model = torch.nn.Linear(2, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    group.align(model)
    group.average_statistics(model)
    assert group.share(lambda: 5) == 5
    assert group.leads
    assert torch.equal(group.mean(torch.tensor([3.0])), torch.tensor([3.0]))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_number_of_processes_cannot_continue_a_run() -> None:
    Group(0, 2).require_same_world(2)
    with pytest.raises(InputError, match="began with 2 processes, now there are 1"):
        Group().require_same_world(2)
