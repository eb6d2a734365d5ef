"""Every kind of damage is found, named once, and left out; what is left has a fingerprint."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sanflow.data.check import Report, check_dataset
from sanflow.data.config import DataConfig
from sanflow.data.layout import open_dataset
from sanflow.errors import ImageError
from sanflow.imaging import PixelPath, Roi, read, write_png

from .conftest import Write


def checked(root: Path, config: DataConfig | None = None) -> Report:
    """The report on a data set in a folder."""
    config = config or DataConfig()
    return check_dataset(open_dataset(root, config), config)


def found(report: Report) -> list[tuple[str, str]]:
    """Relative path and problem of each finding."""
    relative = report.dataset_without_bad.relative
    return [(relative(f.path), f.problem) for f in report.findings]


def test_a_sound_data_set(mvtec: Path) -> None:
    report = checked(mvtec)
    assert report.findings == ()
    assert report.dataset_without_bad == open_dataset(mvtec, DataConfig())
    assert (
        report.text()
        == f"{mvtec}: every image can be used (mvtec layout: 17 train, 3 calibrate, 4 test)"
    )
    assert len(report.content_hashes) == 24
    assert {len(h) for h in report.content_hashes.values()} == {64}


def test_progress_counts_every_image(mvtec: Path) -> None:
    told: list[tuple[int, int]] = []
    dataset = open_dataset(mvtec, DataConfig())
    check_dataset(dataset, DataConfig(), lambda done, total: told.append((done, total)))
    assert told == [(i, 24) for i in range(1, 25)]


# Files that cannot be read


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: b"", "empty"),
        (lambda data: data[:-5], "truncated"),
        (lambda data: data[:60] + bytes(8) + data[68:], "unreadable"),
        (lambda data: b"not a picture", "unreadable"),
        (lambda data: b"GIF89a" + data, "unsupported type"),
    ],
)
def test_a_damaged_image_is_named_and_left_out(mvtec: Path, damage: object, problem: str) -> None:
    path = mvtec / "test" / "good" / "001.png"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    report = checked(mvtec)
    assert found(report) == [("test/good/001.png", problem)]
    assert path not in {s.path for s in report.dataset_without_bad.test}
    assert path not in report.content_hashes
    assert len(report.dataset_without_bad.test) == 3


def test_float_pixels_are_an_unsupported_type(mvtec: Path) -> None:
    path = mvtec / "train" / "good" / "float.tif"
    assert cv2.imwrite(str(path), np.ones((6, 8), np.float32))
    assert found(checked(mvtec)) == [("train/good/float.tif", "unsupported type")]


def test_a_foreign_format_among_the_images_is_mentioned(mvtec: Path) -> None:
    (mvtec / "train" / "good" / "view.heic").write_bytes(b"....ftypheic")
    assert found(checked(mvtec)) == [("train/good/view.heic", "unsupported type")]


def test_a_file_that_cannot_be_opened(mvtec: Path) -> None:
    dataset = open_dataset(mvtec, DataConfig())
    dataset.train[0].path.unlink()  # between the listing and the check
    finding = check_dataset(dataset, DataConfig()).findings[0]
    assert (finding.path, finding.problem) == (dataset.train[0].path, "unreadable")
    assert "No such file" in finding.detail


# Masks and regions


def test_a_mask_of_another_size_leaves_its_image_out(mvtec: Path, write: Write) -> None:
    write("ground_truth/scratch/001_mask.png", height=7, mask=True)
    report = checked(mvtec)
    assert found(report) == [("ground_truth/scratch/001_mask.png", "wrong size")]
    assert report.findings[0].detail == "the mask is 8x7, its image 8x6"
    assert "test/scratch/001.png" not in map(
        report.dataset_without_bad.relative, (s.path for s in report.dataset_without_bad.test)
    )
    assert len(report.dataset_without_bad.test) == 3


def test_a_damaged_mask_leaves_its_image_out(mvtec: Path) -> None:
    (mvtec / "ground_truth" / "scratch" / "000_mask.png").write_bytes(b"")
    report = checked(mvtec)
    assert found(report) == [("ground_truth/scratch/000_mask.png", "empty")]
    assert len(report.dataset_without_bad.test) == 3


def test_an_image_too_small_for_the_region(mvtec: Path, write: Write) -> None:
    write("test/good/000.png", height=5)
    report = checked(mvtec, DataConfig(roi=Roi(x=0, y=0, width=8, height=6)))
    assert found(report) == [("test/good/000.png", "wrong size")]
    assert "8x5" in report.findings[0].detail
    assert "0,0,8,6 (x,y,width,height) lies outside" in report.findings[0].detail


def test_a_region_with_too_few_pixels_for_the_model(mvtec: Path) -> None:
    """The model sees the region, however large the photograph."""
    config = DataConfig(roi=Roi(x=0, y=0, width=4, height=2))
    dataset = open_dataset(mvtec, config)
    assert not check_dataset(dataset, config, size=(32, 64)).findings
    report = check_dataset(dataset, config, size=(64, 64))
    assert len(report.findings) == 24
    with pytest.raises(ImageError, match=r"4x2 pixels .* too few"):
        PixelPath(64, 64, config.roi).load(report.findings[0].path)


# Duplicates


def test_a_copy_within_a_role_is_left_out_whatever_its_file(mvtec: Path) -> None:
    first = mvtec / "train" / "good" / "000.png"
    bgr = np.ascontiguousarray(read(first)[:, :, ::-1])
    assert cv2.imwrite(str(first.with_suffix(".bmp")), bgr)
    report = checked(mvtec, DataConfig(calibrate_fraction=0.05))
    [finding] = report.findings
    assert finding.problem == "duplicate"
    assert {finding.path.stem} == {"000"}
    assert "the same pixels as train/good/000." in finding.detail
    assert len(report.content_hashes) == 25
    left = report.dataset_without_bad
    assert len(left.train + left.calibrate) == 20


def test_of_copies_across_roles_the_test_image_stays(mvtec: Path) -> None:
    dataset = open_dataset(mvtec, DataConfig())
    train, calibrate = dataset.train[3].path, dataset.calibrate[0].path
    test = mvtec / "test" / "good" / "001.png"
    shutil.copy(test, train)
    shutil.copy(test, calibrate)
    report = checked(mvtec)
    details = {f.path: f.detail for f in report.findings}
    assert details == {
        path: f"the same pixels as test/good/001.png, which is in test; this one is in {role}"
        for path, role in ((train, "train"), (calibrate, "calibrate"))
    }
    left = report.dataset_without_bad
    assert (len(left.train), len(left.calibrate), len(left.test)) == (16, 2, 4)


# Sizes and blank pictures


@pytest.mark.parametrize("size", [(1, 1), (6, 4), (2, 3), (20, 26), (8, 6)])
def test_another_shape_among_equal_ones_is_named(
    mvtec: Path, write: Write, size: tuple[int, int]
) -> None:
    write("test/good/odd.png", *size)
    report = checked(mvtec)
    assert found(report) == [("test/good/odd.png", "wrong size")]
    (finding,) = report.findings
    usual = "24 of 25 images are 8x6"
    assert finding.detail == f"{size[1]}x{size[0]} (width x height); {usual}"


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (12, 16), (3, 4)])
def test_nearly_the_same_shape_is_no_mistake(
    mvtec: Path, write: Write, size: tuple[int, int]
) -> None:
    write("train/good/trimmed.png", *size)
    assert not checked(mvtec).findings


def test_parts_of_many_sizes_are_no_mistake(tmp_path: Path, write: Write) -> None:
    for index in range(10):
        write(f"{index}.png", height=6 + index, width=8 + 3 * index)
    assert not checked(tmp_path).findings


def test_the_size_of_the_good_pictures_is_known_if_it_is_one(mvtec: Path, write: Write) -> None:
    write("test/scratch/large.png", height=12, width=16)
    assert checked(mvtec).size == (6, 8)
    write("train/good/trimmed.png", height=7, width=9)
    assert not checked(mvtec).findings
    assert checked(mvtec).size is None


@pytest.mark.parametrize(
    ("roi", "size", "why"), [(None, (8, 6), ""), (Roi(1, 1, 4, 4), (7, 8), " and cut to a region")]
)
def test_defects_that_the_finished_model_will_not_judge(
    mvtec: Path, write: Write, roi: Roi | None, size: tuple[int, int], why: str
) -> None:
    """Too many to be odd ones out: without the check, the evaluation after the training says so."""
    for index in range(9):
        write(f"test/dent/{index}.png", *size)
    report = checked(mvtec, DataConfig(roi=roi))
    assert [path for path, _ in found(report)] == [f"test/dent/{i}.png" for i in range(9)]
    assert report.findings[0].detail == (
        f"{size[1]}x{size[0]} (width x height); good images are 8x6{why}"
    )
    pixels = PixelPath(16, 16, roi, report.size)
    with pytest.raises(ImageError):
        pixels.load(report.findings[0].path)
    for sample in report.dataset_without_bad.test:
        pixels.load(sample.path)


def test_far_fewer_pixels_than_the_models_are_named(mvtec: Path) -> None:
    dataset = open_dataset(mvtec, DataConfig())
    assert not check_dataset(dataset, DataConfig(), size=(96, 128)).findings
    report = check_dataset(dataset, DataConfig(), size=(97, 128))
    assert len(report.findings) == sum(len(s) for s in dataset.roles().values())
    assert report.findings[0].detail == (
        "8x6 pixels (width x height) are too few for a model that sees 128x97"
    )


def test_a_picture_of_nothing_is_named(mvtec: Path) -> None:
    write_png(mvtec / "train" / "good" / "black.png", np.zeros((6, 8, 3), np.uint8))
    report = checked(mvtec)
    assert found(report) == [("train/good/black.png", "blank")]
    assert report.findings[0].detail == "every pixel is [0, 0, 0]"


# The report


def test_of_many_files_with_one_problem_the_first_are_listed(mvtec: Path) -> None:
    for index in range(25):
        (mvtec / "train" / "good" / f"empty{index:02}.png").write_bytes(b"")
    lines = checked(mvtec).text().splitlines()
    assert lines[1] == "empty (25):"
    assert len(lines) == 24
    assert lines[-2] == "  and 5 more; `sanflow check --json` has all"


def test_the_text_names_everything_under_its_problem(mvtec: Path) -> None:
    good = mvtec / "train" / "good"
    (good / "x.png").write_bytes(b"")
    (good / "y.png").write_bytes(b"")
    (good / "z.png").write_bytes(b"?")
    report = checked(mvtec)
    lines = report.text().splitlines()
    left = [len(s) for s in report.dataset_without_bad.roles().values()]
    assert lines == [
        f"{mvtec}: 3 files cannot be used (mvtec layout)",
        "empty (2):",
        "  train/good/x.png: the file is empty (0 bytes); copy it again",
        "  train/good/y.png: the file is empty (0 bytes); copy it again",
        "unreadable (1):",
        "  train/good/z.png: not an image: begins with b'?'; expected PNG, JPEG, BMP, TIFF or WebP",
        "without them: {} train, {} calibrate, {} test".format(*left),
    ]


def test_the_fingerprint_knows_content_path_and_role_not_the_place(
    mvtec: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = checked(mvtec).fingerprint
    elsewhere = tmp_path_factory.mktemp("copy") / "moved"
    shutil.copytree(mvtec, elsewhere)
    assert checked(elsewhere).fingerprint == original

    path = elsewhere / "test" / "good" / "000.png"
    pixels = read(path)
    pixels[0, 0, 0] ^= 1
    write_png(path, pixels)
    changed = checked(elsewhere).fingerprint
    path.rename(path.with_name("renamed.png"))
    renamed = checked(elsewhere).fingerprint
    config = DataConfig(split_seed=5)
    assert open_dataset(mvtec, config).train != open_dataset(mvtec, DataConfig()).train
    moved = checked(mvtec, config).fingerprint
    assert len({original, changed, renamed, moved}) == 4


def test_the_same_files_in_other_roles_are_other_data(mvtec: Path) -> None:
    dataset = open_dataset(mvtec, DataConfig())
    moved = replace(dataset, calibrate=(), test=dataset.calibrate)
    kept = replace(dataset, test=())
    reports = [check_dataset(d, DataConfig()) for d in (kept, moved)]
    assert reports[0].content_hashes == reports[1].content_hashes
    assert reports[0].fingerprint != reports[1].fingerprint


def test_the_fingerprint_ignores_the_order_of_samples(mvtec: Path) -> None:
    dataset = open_dataset(mvtec, DataConfig())
    turned = replace(dataset, train=dataset.train[::-1], test=dataset.test[::-1])
    reports = [check_dataset(d, DataConfig()) for d in (dataset, turned)]
    assert reports[0].fingerprint == reports[1].fingerprint


def test_a_bad_file_left_out_and_a_file_never_there_are_the_same_data(mvtec: Path) -> None:
    original = checked(mvtec).fingerprint
    (mvtec / "test" / "good" / "empty.png").write_bytes(b"")
    assert checked(mvtec).fingerprint == original


@pytest.mark.real_parts
def test_the_texture_photographs_are_sound(shared: Path) -> None:
    folder = sorted(p for p in (shared / "data" / "textures").iterdir() if p.is_dir())[0]
    assert checked(folder).findings == ()
