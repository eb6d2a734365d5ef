"""Downloads that are no pictures: unpacked whole, or refused with nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from sanflow.cli import app
from sanflow.data.config import DataConfig
from sanflow.data.layout import GOOD, open_dataset
from sanflow.data.protocols import UNPACK
from sanflow.data.protocols.stc import SCENES
from sanflow.errors import DataError, InputError
from sanflow.imaging import read, read_mask

# CIFAR


def records(labels: list[list[int]], seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """One record of noise per list of labels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    return np.concatenate([np.array(labels, np.uint8), pixels], axis=1)


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """Five training batches and a test batch of three classes, two images each."""
    source = tmp_path / "cifar-10-batches-bin"
    source.mkdir()
    (source / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records([[c] for c in (2, 0, 1, 1, 0, 2)], index).tofile(source / f"{name}.bin")
    return source


def test_cifar10_becomes_class_folders(cifar10: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "deep" / "cifar10", []
    UNPACK["cifar10"](cifar10, out, lambda done, total: told.append((done, total)))
    assert told[-1] == (36, 36)
    dataset = open_dataset(out, DataConfig(layout="classes", category="bird"))
    assert len(dataset.train) + len(dataset.calibrate) == 10
    assert (
        sorted(s.label for s in dataset.test) == ["airplane"] * 2 + ["automobile"] * 2 + [GOOD] * 2
    )
    stored = records([[c] for c in (2, 0, 1, 1, 0, 2)], 0)[1, 1:].reshape(3, 32, 32)
    shown = read(out / "train/airplane/00001.png")
    np.testing.assert_array_equal(shown.transpose(2, 0, 1), stored)


def test_cifar100_takes_the_superclass(tmp_path: Path) -> None:
    source = tmp_path / "cifar-100-binary"
    source.mkdir()
    (source / "coarse_label_names.txt").write_text("fish\nflowers\n")
    (source / "fine_label_names.txt").write_text("a\nb\nc\n")
    for name in ("train", "test"):
        records([[0, 2], [1, 1], [0, 0]], 0).tofile(source / f"{name}.bin")
    UNPACK["cifar100"](source, tmp_path / "out", None)
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.png"))
    assert found == [
        f"{split}/{name}.png"
        for split in ("test", "train")
        for name in ("fish/00000", "fish/00002", "flowers/00001")
    ]


def cut_short(source: Path) -> None:
    path = source / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])


def absent(source: Path) -> None:
    (source / "data_batch_3.bin").rename(source / "data_batch_3")


def wrong_label(source: Path) -> None:
    records([[3]], 0).tofile(source / "test_batch.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_short, r"data_batch_2\.bin: 18437 bytes are no whole number of records of 3073"),
        (absent, r"not the binary version of CIFAR-10: data_batch_3\.bin missing"),
        (wrong_label, "record 0 of test has the label 3, and there are 3 names"),
    ],
)
def test_a_bad_cifar_leaves_nothing(
    cifar10: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(cifar10)
    with pytest.raises(DataError, match=message):
        UNPACK["cifar10"](cifar10, tmp_path / "out", None)
    assert [p.name for p in tmp_path.iterdir()] == ["cifar-10-batches-bin"]


def test_nothing_is_unpacked_over_something(cifar10: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: is already there"):
        UNPACK["cifar10"](cifar10, tmp_path / "out", None)


def test_what_a_killed_process_left_is_replaced(cifar10: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial" / "train").mkdir(parents=True)
    UNPACK["cifar10"](cifar10, tmp_path / "out", None)
    assert not (tmp_path / ".out.partial").exists()
    assert len(list((tmp_path / "out").rglob("*.png"))) == 36


def test_the_command(cifar10: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["unpack", "cifar10", str(cifar10), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert len(list(out.rglob("*.png"))) == 36
    done = CliRunner().invoke(app, ["unpack", "mnist", str(cifar10), "--out", str(out)])
    assert done.exit_code == 2
    assert "expected one of cifar10, cifar100, stc" in done.stderr


# ShanghaiTech Campus


@pytest.fixture
def stc(tmp_path: Path) -> Path:
    """Every scene: two training clips of six frames, one test clip of three, the last abnormal."""
    source = tmp_path / "shanghaitech"
    rng = np.random.default_rng(0)
    for name in ("training/videos", "testing/test_frame_mask", "testing/test_pixel_mask"):
        (source / name).mkdir(parents=True)
    for scene in SCENES:
        for clip in ("001", "002"):
            path = source / "training" / "videos" / f"{scene}_{clip}.avi"
            video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 24, (32, 16))
            for _ in range(6):
                video.write(rng.integers(0, 256, (16, 32, 3), np.uint8))
            video.release()
        frames = source / "testing" / "frames" / f"{scene}_0014"
        frames.mkdir(parents=True)
        for index in range(3):
            cv2.imwrite(str(frames / f"{index:03d}.jpg"), rng.integers(0, 256, (16, 32, 3)))
        masks = np.zeros((3, 16, 32), np.uint8)
        masks[2, 4:8, 8:12] = 1
        testing = source / "testing"
        np.save(testing / "test_frame_mask" / f"{scene}_0014.npy", np.array([0, 0, 1], np.int8))
        np.save(testing / "test_pixel_mask" / f"{scene}_0014.npy", masks)
    return source


def test_stc_becomes_a_tree_per_scene(stc: Path, tmp_path: Path) -> None:
    UNPACK["stc"](stc, tmp_path / "out", None)
    dataset = open_dataset(
        tmp_path / "out", DataConfig(layout="stc", category="07", calibrate_fraction=0.5)
    )
    assert (len(dataset.train), len(dataset.calibrate)) == (6, 6)
    assert {len({s.group for s in role}) for role in (dataset.train, dataset.calibrate)} == {1}
    assert [s.label for s in dataset.test] == ["anomaly", GOOD, GOOD]
    (mask,) = (s.mask for s in dataset.test if s.mask)
    expected = np.zeros((16, 32), bool)
    expected[4:8, 8:12] = True
    np.testing.assert_array_equal(read_mask(mask), expected)
    copied = tmp_path / "out/07/test/good/07_0014_000.jpg"
    assert copied.read_bytes() == (stc / "testing/frames/07_0014/000.jpg").read_bytes()


def test_the_download_itself_is_not_read(stc: Path) -> None:
    with pytest.raises(DataError, match="unpack them with `sanflow unpack stc"):
        open_dataset(stc, DataConfig(layout="stc", category="01"))


def no_scene(source: Path) -> None:
    for path in (source / "training/videos").glob("05_*.avi"):
        path.unlink()


def short_video(source: Path) -> None:
    path = source / "training/videos/01_002.avi"
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"00dc", 0, len(data) - 2000)])


def short_mask(source: Path) -> None:
    np.save(source / "testing/test_frame_mask/03_0014.npy", np.zeros(2))


def pickled_mask(source: Path) -> None:
    path = source / "testing/test_pixel_mask/03_0014.npy"
    np.save(path, np.array([None]), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_scene, "not complete here: no training/videos of scene 05"),
        (short_video, r"01_002\.avi: only \d frames of about 6 can be decoded"),
        (short_mask, "03_0014: 3 frames, 2 labels and 3 masks"),
        (pickled_mask, "cannot be read as a NumPy array"),
    ],
)
def test_a_bad_stc_leaves_nothing(
    stc: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(stc)
    with pytest.raises(DataError, match=message):
        UNPACK["stc"](stc, tmp_path / "out", None)
    assert [p.name for p in tmp_path.iterdir()] == ["shanghaitech"]
