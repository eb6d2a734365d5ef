"""ShanghaiTech Campus: scenes of a campus; training videos, test frames and their masks.

    SOURCE/training/videos/01_001.avi                  scene 01, clip 001
    SOURCE/testing/frames/01_0014/000.jpg
    SOURCE/testing/test_frame_mask/01_0014.npy         (frames,), 1 where something is abnormal
    SOURCE/testing/test_pixel_mask/01_0014.npy         (frames, height, width)

Unpacked, each scene is an MVTec AD tree whose groups are the clips. Scene 13 has no test clips.
"""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...imaging import encode_png
from ..config import DataConfig
from ..samples import Dataset, files_in, some
from ..tree import read_tree
from .whole import Progress, folders_of, new_folder

TITLE = "ShanghaiTech Campus"
SCENES = tuple(f"{scene:02d}" for scene in range(1, 13))
JPEG_QUALITY = 80
"""Of the training frames, as in CFLOW-AD's code; the test frames come as JPEG files."""
_WHOLE = 0.9
"""A video of which less than this share can be decoded was cut short; its header is no exact
count of frames."""


def categories(root: Path) -> tuple[str, ...]:
    """The scenes that were unpacked."""
    if (root / "training" / "videos").is_dir():
        raise DataError(
            f"{root}: {TITLE} comes as videos; unpack them with `sanflow unpack stc {root} --out "
            "FOLDER` and give that folder"
        )
    return folders_of(root, SCENES, f"the unpacked {TITLE}", "train/good")


def read(root: Path, category: str, config: DataConfig) -> Dataset:
    """One scene."""
    return read_tree(root, root / category, config, layout=f"stc {category}")


def unpack(source: Path, out: Path, progress: Progress | None = None) -> None:
    """Write OUT/<scene> for every scene with ground truth; DataError names what is missing."""
    videos = _by_scene(files_in(source / "training" / "videos", (".avi",)))
    frames = source / "testing" / "frames"
    clips = _by_scene(sorted(p for p in frames.iterdir() if p.is_dir()) if frames.is_dir() else [])
    _require_scenes(source, videos, clips)
    total = sum(len(videos[scene]) + len(clips[scene]) for scene in SCENES)
    done = 0
    with new_folder(out) as folder:
        for scene in SCENES:
            groups: list[tuple[str, str]] = []
            for path in videos[scene]:
                groups += _train_clip(path, folder / scene)
                done += 1
                if progress is not None:
                    progress(done, total)
            for path in clips[scene]:
                groups += _test_clip(path, source / "testing", folder / scene)
                done += 1
                if progress is not None:
                    progress(done, total)
            with (folder / scene / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("path", "group"), *groups])


def _by_scene(paths: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found[path.name.partition("_")[0]].append(path)
    return found


def _require_scenes(
    source: Path, videos: dict[str, list[Path]], clips: dict[str, list[Path]]
) -> None:
    lacking = [
        f"{what} of scene {some([s for s in SCENES if not found.get(s)])}"
        for what, found in (("training/videos", videos), ("testing/frames", clips))
        if any(not found.get(s) for s in SCENES)
    ]
    if lacking:
        raise DataError(
            f"{source}: {TITLE} is not complete here: no {' and no '.join(lacking)}; download and "
            "unpack it again"
        )


def _train_clip(path: Path, scene: Path) -> Iterator[tuple[str, str]]:
    """Write the frames of a video; yields the name of each, and the clip as its group."""
    good = scene / "train" / "good"
    good.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoCapture(str(path))
    try:
        expected, count = video.get(cv2.CAP_PROP_FRAME_COUNT), 0
        while True:
            more, frame = video.read()
            if not more:
                break
            name = f"{path.stem}_{count:08d}.jpg"
            _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            (good / name).write_bytes(data.tobytes())
            yield f"train/good/{name}", path.stem
            count += 1
    finally:
        video.release()
    if count == 0 or count < _WHOLE * expected:
        raise DataError(
            f"{path}: only {count} frames of about {max(expected, 1):.0f} can be decoded; download "
            "it again"
        )


def _test_clip(path: Path, testing: Path, scene: Path) -> Iterator[tuple[str, str]]:
    """Copy the frames of a clip and write their masks; yields the name and the group of each."""
    frames = files_in(path, (".jpg",))
    abnormal = _load(testing / "test_frame_mask" / f"{path.name}.npy", 1)
    pixels = _load(testing / "test_pixel_mask" / f"{path.name}.npy", 3)
    if not len(frames) == len(abnormal) == len(pixels):
        raise DataError(
            f"{path}: {len(frames)} frames, {len(abnormal)} labels and {len(pixels)} masks; "
            "download the test part again"
        )
    for frame, label, mask in zip(frames, abnormal, pixels, strict=True):
        kind, name = "anomaly" if label else "good", f"{path.name}_{frame.stem}"
        target = scene / "test" / kind / f"{name}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(frame, target)
        yield f"test/{kind}/{name}.jpg", path.name
        if label:
            truth = scene / "ground_truth" / kind / f"{name}_mask.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            truth.write_bytes(encode_png(np.where(mask > 0, np.uint8(255), np.uint8(0))))


def _load(path: Path, dimensions: int) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a NumPy array ({error})") from None
    if array.ndim != dimensions:
        raise DataError(f"{path}: {array.ndim} dimensions, expected {dimensions}")
    return array
