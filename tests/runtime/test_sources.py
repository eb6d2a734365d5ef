"""Finding images: the same order every time, whatever lies around, in bounded memory."""

from __future__ import annotations

import glob
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sanflow.errors import InputError
from sanflow.runtime import sources
from sanflow.runtime.sources import find

FILES = (
    "b.png", "a.JPG", "c.txt", "d", ".hidden.png", "deep/x.tiff", "deep/er/y.bmp", "deep/z.png",
    ".git/q.png", "[1]/w.png", "e*.png", "Thumbs.db", "über.png",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = list(FILES)
    random.Random(1).shuffle(names)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def listed(source: Any, **options: Any) -> list[str]:
    return [path.as_posix() for path in find(source, **options)]


def test_a_folder_is_searched_in_order_with_all_below_it(folder: Path) -> None:
    wanted = ["[1]/w.png", "a.JPG", "b.png", "deep/er/y.bmp", "deep/x.tiff", "deep/z.png"]
    assert listed(folder) == [*wanted, "e*.png", "über.png"]
    assert find(folder).root == folder


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_order_does_not_depend_on_how_many_names_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    names = [f"{random.Random(i).random():.6f}.png" for i in range(23)]
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(sources, "WINDOW", window)
    assert listed(tmp_path) == sorted(names)


def test_a_file_is_taken_at_its_word(folder: Path) -> None:
    assert listed(folder / "c.txt") == ["c.txt"]
    assert find(folder / "c.txt").root == folder
    assert listed(str(folder / "e*.png")) == ["e*.png"]  # it exists, so it is no glob


@pytest.mark.parametrize(
    "pattern",
    ["*.png", "*", "deep/*", "**/*.png", "deep/**/*.bmp", "**", "*/*.png", "deep/?.png", "[ab].*",
     "**/er/*", "d*/*r/y.*"],
)  # fmt: skip
def test_a_glob_finds_the_files_that_pythons_own_finds(folder: Path, pattern: str) -> None:
    found = find(str(folder / pattern))
    names = sorted(str(found.root / path) for path in found)
    own = glob.glob(str(folder / pattern), recursive=True)
    assert names == sorted(name for name in own if os.path.isfile(name))
    assert names


def test_the_output_folder_is_left_out(folder: Path) -> None:
    assert "deep/z.png" not in listed(folder, skip=folder / "deep")
    assert "b.png" in listed(folder, skip=folder / "deep")
    pattern = str(folder / "**" / "*.png")
    assert "deep/z.png" not in listed(pattern, skip=folder / "deep")


def test_a_link_that_leads_back_up_does_not_trap(folder: Path) -> None:
    before = listed(folder)
    (folder / "deep" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "zz.png").symlink_to(folder / "b.png")
    assert listed(folder) == [*before[:-1], "zz.png", before[-1]]


def test_a_folder_that_cannot_be_listed_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "er":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [p for p in listed(folder) if p.startswith("deep")] == [
        "deep/er",
        "deep/x.tiff",
        "deep/z.png",
    ]


def test_files_are_found_one_at_a_time(folder: Path) -> None:
    """A file that vanishes, or comes, while the run goes on is no error."""
    walk: Iterator[Path] = iter(find(folder))
    next(walk)
    (folder / "deep" / "z.png").unlink()
    (folder / "deep" / "zz.png").touch()
    assert [p.name for p in walk if p.parent.name == "deep"] == ["x.tiff", "zz.png"]


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere", "no such file or folder"), ("nowhere/*.png", "nowhere is no folder")],
)
def test_what_is_not_there(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find(str(tmp_path / source))
