"""On a cluster of two nodes, the same leaderboard as in one process; without one, a message."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sanflow.errors import EngineError
from sanflow.sweep.config import Sweep
from sanflow.sweep.engines import Task, local_engine, ray_engine
from sanflow.sweep.sweep import run_sweep

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two raylets on this machine, with room for one cell each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def test_two_nodes_give_the_leaderboard_of_one_process(
    tiny: Sweep, cluster: Any, tmp_path: Path
) -> None:
    run_sweep(tiny, tmp_path / "local", local_engine(1))
    run_sweep(tiny, tmp_path / "ray", ray_engine(cluster.address))
    tables = [(tmp_path / name / "leaderboard.csv").read_bytes() for name in ("local", "ray")]
    assert tables[0] == tables[1]
    with (tmp_path / "ray" / "cells.csv").open(newline="") as file:
        assert [line["attempts"] for line in csv.DictReader(file)] == ["1", "1"]


def test_a_cell_that_fails_on_a_node_is_told_like_here(cluster: Any, tmp_path: Path) -> None:
    (outcome,) = ray_engine(cluster.address)([Task(str(tmp_path), 1, 0.0)])  # holds no cell
    assert outcome.error is not None
    assert "cell.json" in outcome.error


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"Ray at 127\.0\.0\.1:1: nobody answers .* start the cluster"),
        ("ray://127.0.0.1:1", "nobody answers"),
        ("my-cluster", "'my-cluster': expected HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there(address: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        ray_engine(address)
