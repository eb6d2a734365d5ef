"""Whatever ends a cell or the sweep: nothing is lost, nothing runs twice, every failure is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.cli import app
from sanflow.errors import ConfigError, DataError, InputError, Interrupted, SanflowError
from sanflow.sweep.config import Sweep
from sanflow.sweep.engines import Task, local_engine
from sanflow.sweep.folder import CellFolder
from sanflow.sweep.lock import locked
from sanflow.sweep.sweep import Told, overview, run_sweep
from sanflow.sweep.worker import ORPHANED

Order = Callable[[str], Path]
FIRST, SECOND = "sanflow-edge-parts-seed0", "sanflow-edge-parts-seed1"


def attempts(out: Path) -> dict[str, int]:
    """How often each cell was taken up."""
    return {path.name: CellFolder(path).attempts for path in sorted((out / "cells").iterdir())}


def test_a_sweep_and_the_same_again(tiny: Sweep, fake_worker: Order, tmp_path: Path) -> None:
    out, told = tmp_path / "out", list[Told]()
    finished = run_sweep(tiny, out, local_engine(1), report=told.append)
    assert [t.cell.name for t in told] == [f.cell.name for f in finished] == [FIRST, SECOND]
    assert [(t.done, t.total) for t in told] == [(1, 2), (2, 2)]
    assert {p.name for p in out.iterdir()} >= {
        "leaderboard.md",
        "leaderboard.csv",
        "leaderboard.html",
        "cells.csv",
    }
    told.clear()
    assert run_sweep(tiny, out, local_engine(1), report=told.append) == finished
    assert told == []
    assert attempts(out) == {FIRST: 1, SECOND: 1}


def test_a_sweep_that_is_stopped_leaves_a_board_of_what_is_done(
    tiny: Sweep, fake_worker: Order, tmp_path: Path
) -> None:
    def stop(told: Told) -> None:
        raise Interrupted("stopped")

    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        run_sweep(tiny, out, local_engine(1), report=stop)
    assert "1 of 2 cells" in (out / "leaderboard.md").read_text("utf-8")
    assert FIRST in (out / "cells.csv").read_text("utf-8")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("kill", "ended by SIGKILL; perhaps there was not enough memory"),
        ("fail", "no such texture"),
        ("exit", "ended with exit code 3"),
    ],
)
def test_a_cell_that_fails_is_told_and_run_again_alone(
    tiny: Sweep, fake_worker: Order, tmp_path: Path, order: str, message: str
) -> None:
    out = tmp_path / "out"
    fake_worker(f"{FIRST}.{order}")
    with pytest.raises(SanflowError, match="1 of 2 cells failed") as caught:
        run_sweep(tiny, out, local_engine(2))
    assert message in str(caught.value)
    assert "1 of 2 cells are done" in (out / "leaderboard.md").read_text("utf-8")
    states = dict(overview(tiny, out))
    assert states[SECOND] == "done"
    assert states[FIRST] == ("failed: no such texture" if order == "fail" else "begun")
    assert "something to say" in (out / "cells" / FIRST / "log.txt").read_text("utf-8")
    run_sweep(tiny, out, local_engine(2))
    assert attempts(out) == {FIRST: 2, SECOND: 1}
    assert dict(overview(tiny, out)) == {FIRST: "done", SECOND: "done"}


def test_cells_run_side_by_side(tiny: Sweep, fake_worker: Order, tmp_path: Path) -> None:
    for name in (FIRST, SECOND):
        fake_worker(f"{name}.sleep")
    out = tmp_path / "out"
    folders = [out / "cells" / name for name in (FIRST, SECOND)]
    for folder in folders:
        folder.mkdir(parents=True)
    outcomes = local_engine(2)([Task(str(folder), 1, 0.0) for folder in folders])
    closing = threading.Thread(target=lambda: list(outcomes), daemon=True)
    closing.start()
    deadline = time.monotonic() + 20
    while not all((f / "attempts.txt").exists() for f in folders):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for folder in folders:
        os.kill(int((folder / "attempts.txt").read_text()), 9)
    closing.join(20)
    assert not closing.is_alive()


def test_closing_the_engine_ends_its_processes(
    tiny: Sweep, fake_worker: Order, tmp_path: Path
) -> None:
    fake_worker("b.sleep")
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    outcomes = local_engine(1)([Task(str(folder), 1, 0.0) for folder in folders])
    assert next(outcomes).error is None
    while not (folders[1] / "attempts.txt").exists():
        time.sleep(0.05)
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((folders[1] / "attempts.txt").read_text()), 0)


def test_another_configuration_is_not_mixed_in(
    tiny: Sweep, toml: Path, fake_worker: Order, tmp_path: Path
) -> None:
    from sanflow.sweep.config import read_sweep

    out = tmp_path / "out"
    run_sweep(tiny, out, local_engine(1))
    toml.write_text(toml.read_text("utf-8").replace("epochs = 2", "epochs = 3"), "utf-8")
    with pytest.raises(ConfigError, match=r"config.optim.epochs = 3 \(was 2\); give another --out"):
        run_sweep(read_sweep(toml), out, local_engine(1))
    refused = "refused: was begun with other values: config.optim.epochs = 3 (was 2)"
    assert dict(overview(read_sweep(toml), out)) == {FIRST: refused, SECOND: refused}


def test_more_seeds_are_added_to_a_sweep(
    tiny: Sweep, toml: Path, fake_worker: Order, tmp_path: Path
) -> None:
    from sanflow.sweep.config import read_sweep

    out = tmp_path / "out"
    run_sweep(tiny, out, local_engine(1))
    toml.write_text(toml.read_text("utf-8").replace("[0, 1]", "[0, 1, 2]"), "utf-8")
    run_sweep(read_sweep(toml), out, local_engine(1))
    assert list(attempts(out).values()) == [1, 1, 1]


@pytest.fixture
def mine(parts: Path, toml: Path, tmp_path: Path) -> Path:
    """The sweep's data, to be changed."""
    mine = shutil.copytree(parts, tmp_path / "mine")
    toml.write_text(toml.read_text("utf-8").replace(parts.as_posix(), "mine"), "utf-8")
    return mine


def test_images_that_changed_between_two_calls_are_not_mixed(
    mine: Path, toml: Path, fake_worker: Order, tmp_path: Path
) -> None:
    from sanflow.sweep.config import read_sweep

    out = tmp_path / "out"
    fake_worker(f"{SECOND}.fail")
    with pytest.raises(SanflowError, match="1 of 2 cells failed"):
        run_sweep(read_sweep(toml), out, local_engine(1))
    gone = mine / "train" / "good" / "000.png"
    kept = gone.read_bytes()
    gone.unlink()
    words = f"mine: the cells {FIRST} were trained on other images than {SECOND} is.*--out"
    with pytest.raises(DataError, match=words):
        run_sweep(read_sweep(toml), out, local_engine(1))
    assert attempts(out) == {FIRST: 1, SECOND: 1}
    gone.write_bytes(kept)
    run_sweep(read_sweep(toml), out, local_engine(1))
    gone.unlink()  # nothing is left to train: the table is of the images as they were
    run_sweep(read_sweep(toml), out, local_engine(1))


def test_images_that_changed_while_the_sweep_ran_make_no_table(
    tiny: Sweep, fake_worker: Order, tmp_path: Path
) -> None:
    out, written = tmp_path / "out", tmp_path / "orders" / "result.json"

    def change(told: Told) -> None:
        values = json.loads(written.read_text("utf-8"))
        written.write_text(json.dumps(values | {"fingerprint": "another"}), "utf-8")

    with pytest.raises(DataError, match=f"the cells {FIRST} were trained on other images"):
        run_sweep(tiny, out, local_engine(1), report=change)
    assert not (out / "leaderboard.md").exists()


def test_one_sweep_at_a_time(tiny: Sweep, fake_worker: Order, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out" / "sweep.lock", "busy"),
        pytest.raises(InputError, match="another sweep is working here"),
    ):
        run_sweep(tiny, tmp_path / "out", local_engine(1))


def test_a_lock_is_free_when_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import fcntl, os, sys, time\n"
        "file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="busy"), locked(path, "busy", wait=0.3):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(path, "busy", wait=5):
        pass


def test_a_worker_whose_parent_is_gone_ends_itself(repository: Path) -> None:
    code = (
        "import threading, time\n"
        "from sanflow.sweep.worker import _end_with_parent\n"
        "threading.Thread(target=_end_with_parent, daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=repository)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(50) == ORPHANED


def test_the_plan_starts_nothing(toml: Path, fake_worker: Order, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", str(toml), "--plan"])
    assert done.exit_code == 0, done.output
    assert FIRST in done.stdout
    assert not (tmp_path / "tiny").exists()


def test_the_folder_is_named_like_the_file(toml: Path, fake_worker: Order, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", str(toml)])
    assert done.exit_code == 0, done.output
    assert "leaderboard.html: 2 cells" in done.stdout
    assert json.loads((tmp_path / "tiny" / "cells" / FIRST / "cell.json").read_text())["seed"] == 0
