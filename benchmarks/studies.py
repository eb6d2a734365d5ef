"""The committed leaderboards: `sanflow sweep` on the real parts of ../shared.

    python benchmarks/studies.py STUDY [--data ../shared/data] [--work DIR] [--jobs N]

STUDY is a file of benchmarks/studies. Lays it and its data into DIR, runs the sweep there (started
again, it goes on), and copies the tables to benchmarks/results.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
from real_parts import RESULTS, split

from sanflow.sweep.config import read_sweep
from sanflow.sweep.engines import local_engine
from sanflow.sweep.sweep import run_sweep

STUDIES = Path(__file__).with_name("studies")
WEIGHTS = "resnet18_imagenet_l123.safetensors"


def main() -> None:
    """Parse, prepare, run, copy."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=sorted(p.stem for p in STUDIES.glob("*.toml")))
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--weights", type=Path, default=shared / "weights" / WEIGHTS)
    parser.add_argument("--work", type=Path, default=Path("studies"))
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if given.study.startswith("mtd"):
        split("mtd-canonical", given.data.resolve(), work)
    elif not (work / "cifar10-subset").exists():
        class_folders(given.data / "cifar10_subset.npz", work / "cifar10-subset")
    shutil.copyfile(given.weights, work / "resnet18.safetensors")
    file = Path(shutil.copy(STUDIES / f"{given.study}.toml", work))
    out = work / given.study
    run_sweep(
        read_sweep(file),
        out,
        local_engine(given.jobs),
        report=lambda told: print(told.done, told.total, told.cell.name, told.outcome.error or ""),
    )
    for suffix in ("md", "csv"):
        shutil.copy(out / f"leaderboard.{suffix}", RESULTS / f"study-{given.study}.{suffix}")


def class_folders(source: Path, out: Path) -> None:
    """The arrays of the subset as train/<class>/NNNN.png and test/<class>/NNNN.png."""
    arrays = np.load(source, allow_pickle=False)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("train", "test"):
        for index, (image, label) in enumerate(
            zip(arrays[f"{part}_x"], arrays[f"{part}_y"], strict=True)
        ):
            path = partial / part / str(arrays["classes"][label]) / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))
    partial.rename(out)


if __name__ == "__main__":
    main()
