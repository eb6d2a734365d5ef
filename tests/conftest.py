"""What every test shares: one thread, the place of the real photographs, and when to skip them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before anything imports NumPy or torch: tests run beside each other and must not fight for cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# A job in a shell's background begins with Ctrl-C ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `real_parts` tests, with the reason, on a machine without the photographs."""
    if (SHARED / "data").is_dir():
        return
    skip = pytest.mark.skip(reason="real photographs are not on this machine (../shared/data)")
    for item in items:
        if item.get_closest_marker("real_parts"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def no_tuning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own cache of tuned settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working copy."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real photographs (`data/`) and weights (`weights/`), or a skip."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real photographs are not on this machine (../shared/data)")
    return SHARED


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MVTec layout of 64-pixel parts: 16 to train, 24 to calibrate, 12 to test."""
    import numpy as np

    from sanflow.imaging import write_png

    root = tmp_path_factory.mktemp("data") / "parts"
    rng = np.random.default_rng(0)

    def make(folder: str, count: int, defect: bool = False) -> None:
        (root / folder).mkdir(parents=True)
        for index in range(count):
            rows, columns = np.mgrid[:64, :64] + rng.uniform(0, 8, (2, 1, 1))
            part = (
                120 + 40 * np.sin(columns / 3) + 10 * np.cos(rows / 7) + rng.normal(0, 3, (64, 64))
            )
            if defect:
                top, left = rng.integers(8, 40, 2)
                part[top : top + 16, left : left + 16] = rng.normal(60, 25, (16, 16))
                mask = np.zeros((64, 64, 3), np.uint8)
                mask[top : top + 16, left : left + 16] = 255
                masks = root / "ground_truth" / Path(folder).name
                masks.mkdir(parents=True, exist_ok=True)
                write_png(masks / f"{index:03d}_mask.png", mask)
            grey = np.clip(part, 0, 255).astype(np.uint8)
            write_png(root / folder / f"{index:03d}.png", np.repeat(grey[..., None], 3, axis=2))

    make("train/good", 16)
    make("calibrate/good", 24)
    make("test/good", 6)
    make("test/scratch", 3, defect=True)
    make("test/dent", 3, defect=True)
    return root


@pytest.fixture(scope="session")
def tiny_options() -> list[str]:
    """Options that make `sanflow train` a matter of seconds."""
    return shlex.split(
        "--weights none --extractor resnet18 --size 64 --epochs 1 --set pretext.steps=2 "
        "--set model.position_dim=16 --set model.blocks=2 --set model.head_width=8"
    )


@pytest.fixture(scope="session")
def tiny_run(
    parts: Path, tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A trained and calibrated run of `parts`; copy it before changing anything in it."""
    from typer.testing import CliRunner

    from sanflow.cli import app

    run = tmp_path_factory.mktemp("run") / "run"
    done = CliRunner().invoke(app, ["train", str(parts), "--out", str(run), *tiny_options])
    assert done.exit_code == 0, done.output
    return run


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path) -> Path:
    """An ONNX bundle of `tiny_run`; copy it before changing anything in it."""
    from typer.testing import CliRunner

    from sanflow.cli import app

    bundle = tiny_run.parent / "bundle"
    done = CliRunner().invoke(app, ["export", str(tiny_run), "--out", str(bundle)])
    assert done.exit_code == 0, done.output
    return bundle


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many MB; a skip where this user may not mount one."""
    made: list[Path] = []

    def make(megabytes: int) -> Path:
        disk = tmp_path / f"disk-{len(made)}"
        disk.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
        try:
            mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
        except OSError:
            mounted = False
        if not mounted:
            pytest.skip("mounting a small file system is not allowed here")
        made.append(disk)
        return disk

    try:
        yield make
    finally:
        for disk in made:
            subprocess.run(["umount", "-l", str(disk)], check=False)
