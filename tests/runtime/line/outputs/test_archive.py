"""The archive: a row for each result, pictures as long as there is room, and nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from sanflow import imaging
from sanflow.runtime.line.output import Picture
from sanflow.runtime.line.outputs.archive import ArchiveOutput, limits, to_grey16
from sanflow.runtime.line.outputs.options import ArchiveOptions
from sanflow.runtime.line.outputs.store import Store

from .conftest import a_picture, a_result, eventually, rejected


def opened(folder: Path, **options: object) -> ArchiveOutput:
    archive = ArchiveOutput(ArchiveOptions(**{"free_mb": 0, **options}), folder)  # type: ignore[arg-type]
    archive.open()
    return archive


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}


def test_an_ng_part_leaves_its_picture_and_map(tmp_path: Path) -> None:
    archive = opened(tmp_path)
    seen = a_picture()
    archive.emit(a_result(1), a_picture(1))
    archive.emit(a_result(3), seen)
    archive.emit(rejected(4), None)
    archive.close()
    store = Store(tmp_path)
    assert [result for _, result in store.after(0, 9)] == [a_result(1), a_result(3), rejected(4)]
    (row,) = store.pictures(9)
    assert row.picture == "pictures/2026-01-31/0000000002-part-1003-score.png"
    assert row.map
    assert files(tmp_path) == {row.picture, row.map}
    assert np.array_equal(imaging.read(tmp_path / row.picture), seen.image)
    assert row.map_low is not None
    assert row.map_high is not None
    assert seen.map is not None
    grey = cv2.imread(str(tmp_path / row.map), cv2.IMREAD_UNCHANGED)
    back = row.map_low + grey / 65535 * (row.map_high - row.map_low)
    assert np.abs(back - seen.map).max() <= (row.map_high - row.map_low) / 65535
    assert row.bytes == sum((tmp_path / f).stat().st_size for f in (row.picture, row.map))


@pytest.mark.parametrize(("pictures", "count"), [("none", 0), ("ng", 1), ("all", 3)])
def test_which_pictures_are_kept(pictures: str, count: int, tmp_path: Path) -> None:
    archive = opened(tmp_path, pictures=pictures)
    for number in (1, 2, 3):
        archive.emit(a_result(number), a_picture(number))
    archive.close()
    assert len(files(tmp_path)) == 2 * count


def test_a_result_that_comes_again_is_kept_once(tmp_path: Path) -> None:
    archive = opened(tmp_path)
    for _ in range(2):
        archive.emit(a_result(3), a_picture())
    archive.close()
    assert len(files(tmp_path)) == 2
    assert len(Store(tmp_path).after(0, 9)) == 1


def test_a_part_that_was_not_judged_has_a_picture_without_a_map(tmp_path: Path) -> None:
    archive = opened(tmp_path)
    archive.emit(rejected(1, "engine_error"), Picture(a_picture().image, None))
    archive.close()
    assert files(tmp_path) == {"pictures/2026-01-31/0000000001-part-1001-engine_error.png"}


def test_the_oldest_pictures_give_way_to_the_quota_and_no_row_does(tmp_path: Path) -> None:
    archive = opened(tmp_path, quota_mb=1)
    big = a_picture(side=200)  # about 200 kB with its map
    for number in range(3, 63, 3):
        day = f"2026-01-{number // 3:02d}T12:00:00.000Z"
        archive.emit(a_result(number, created=day), big)
    archive.close()
    store = Store(tmp_path)
    left = store.pictures(99)
    assert len(store.after(0, 99)) == 20
    assert 2 <= len(left) < 10
    assert [row.id for row in left] == list(range(21 - len(left), 21))
    assert files(tmp_path) == {name for row in left for name in (row.picture, row.map)}
    assert sum((tmp_path / f).stat().st_size for f in files(tmp_path)) <= 2**20
    assert len(list((tmp_path / "pictures").iterdir())) == len(left)  # no empty days


def test_the_quota_counts_what_an_earlier_life_kept(tmp_path: Path) -> None:
    for life in range(6):
        archive = opened(tmp_path, quota_mb=1)
        for number in (3, 6):
            archive.emit(a_result(number, run=f"run-{life}"), a_picture(side=200))
        archive.close()
    assert sum((tmp_path / f).stat().st_size for f in files(tmp_path)) <= 2**20


def test_what_expired_goes_with_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanflow.runtime.line.outputs.archive.TRIM_EVERY", 10)
    archive = opened(tmp_path, keep_results=5)
    for number in range(3, 93, 3):
        archive.emit(a_result(number), a_picture(number))
        eventually(lambda: archive.health()["waiting"] == 0)
    archive.close()
    store = Store(tmp_path)
    ids = [id for id, _ in store.after(0, 99)]
    assert ids == list(range(26, 31))
    assert files(tmp_path) == {n for row in store.pictures(99) for n in (row.picture, row.map)}


def test_with_too_little_room_on_the_disk_rows_go_on_without_pictures(tmp_path: Path) -> None:
    archive = opened(tmp_path, free_mb=10**9)
    archive.emit(a_result(3), a_picture())
    eventually(lambda: archive.health()["pictures_dropped"] == 1)
    assert "free_mb" in archive.health()["error"]
    archive.close()
    assert files(tmp_path) == set()
    assert len(Store(tmp_path).after(0, 9)) == 1


def test_pictures_that_come_too_fast_are_dropped_and_rows_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    encode = imaging.encode_png
    monkeypatch.setattr(imaging, "encode_png", lambda image: gate.wait(20) and encode(image))
    archive = opened(tmp_path)
    for number in range(3, 303, 3):
        archive.emit(a_result(number), a_picture())
    gate.set()
    archive.close()
    health = archive.health()
    assert health["stored"] == 100
    assert health["pictures"] + health["pictures_dropped"] == 100
    assert 32 <= health["pictures"] <= 34
    assert len(files(tmp_path)) == 2 * health["pictures"]


def test_a_picture_that_cannot_be_written_does_not_stop_the_next(tmp_path: Path) -> None:
    archive = opened(tmp_path)
    (tmp_path / "pictures").write_text("a file where the folder should be")
    archive.emit(a_result(3), a_picture())
    eventually(lambda: archive.health()["pictures_dropped"] == 1)
    (tmp_path / "pictures").unlink()
    archive.emit(a_result(6), a_picture())
    archive.close()
    assert archive.health()["pictures"] == 1
    assert len(files(tmp_path)) == 2


def test_a_map_that_is_not_finite_is_drawn_all_the_same() -> None:
    heat = np.array([[0, 1], [np.nan, -np.inf]], np.float32)
    assert limits(heat) == (0.0, 1.0)
    assert to_grey16(heat, 0.0, 1.0).tolist() == [[0, 65535], [65535, 0]]
    flat = np.full((2, 2), 3.0, np.float32)
    assert to_grey16(flat, *limits(flat)).tolist() == [[0, 0], [0, 0]]
    assert limits(np.full((2, 2), np.nan, np.float32)) == (0.0, 0.0)
