"""Every image gets one role, the same one in whatever order files come, or a message says why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanflow.data.config import DataConfig
from sanflow.data.layout import GOOD, Dataset, Sample, open_dataset
from sanflow.data.samples import hold_out
from sanflow.errors import DataError

from .conftest import Write


def names(dataset: Dataset, role: str) -> list[str]:
    """The relative paths of one role."""
    return [dataset.relative(s.path) for s in dataset.roles()[role]]


def write_csv(root: Path, *lines: str, head: str = "path,split,label,mask,group") -> Path:
    """A CSV file of these lines."""
    path = root / "parts.csv"
    path.write_text("\n".join((head, *lines)) + "\n", encoding="utf-8")
    return path


# MVTec layout


def test_mvtec_layout(mvtec: Path) -> None:
    dataset = open_dataset(mvtec, DataConfig())
    assert dataset.layout == "mvtec"
    assert (len(dataset.train), len(dataset.calibrate), len(dataset.test)) == (17, 3, 4)
    held = names(dataset, "train") + names(dataset, "calibrate")
    assert sorted(held) == [f"train/good/{i:03d}.png" for i in range(20)]
    assert [s.label for s in dataset.test] == [GOOD, GOOD, "scratch", "scratch"]
    assert [s.mask for s in dataset.test[:2]] == [None, None]
    masks = [dataset.relative(s.mask) for s in dataset.test[2:] if s.mask]
    assert masks == [f"ground_truth/scratch/00{i}_mask.png" for i in range(2)]


def test_a_calibrate_folder_is_taken_as_it_is(mvtec: Path, write: Write) -> None:
    write("calibrate/good/a.png")
    dataset = open_dataset(mvtec, DataConfig())
    assert len(dataset.train) == 20
    assert names(dataset, "calibrate") == ["calibrate/good/a.png"]


@pytest.mark.parametrize("name", ["ok", "OK", "Good", "GOOD"])
def test_a_test_folder_that_plainly_means_good_parts_is_no_defect(
    mvtec: Path, write: Write, name: str
) -> None:
    write(f"test/{name}/a.png")
    with pytest.raises(DataError, match=f"test/{name}: '{name}' would count.*rename it to 'good'"):
        open_dataset(mvtec, DataConfig())


def test_masks_may_have_the_name_of_their_image(mvtec: Path) -> None:
    truth = mvtec / "ground_truth" / "scratch"
    (truth / "000_mask.png").rename(truth / "000.png")
    assert all(s.mask for s in open_dataset(mvtec, DataConfig()).test if s.label == "scratch")


def test_masks_of_folders_within_a_label_are_each_images_own(mvtec: Path, write: Write) -> None:
    for camera in ("cam1", "cam2"):
        write(f"test/scratch/{camera}/000.png")
        write(f"ground_truth/scratch/{camera}/000_mask.png", mask=True)
    masks = {
        s.path.parent.name: s.mask
        for s in open_dataset(mvtec, DataConfig()).test
        if s.path.stem == "000"
    }
    for camera in ("cam1", "cam2"):
        assert masks[camera] == mvtec / "ground_truth" / "scratch" / camera / "000_mask.png"


def test_a_defect_without_masks_is_still_a_defect(mvtec: Path, write: Write) -> None:
    write("test/dent/000.png")
    dent = next(s for s in open_dataset(mvtec, DataConfig()).test if s.label == "dent")
    assert dent.mask is None


def test_groups_of_the_manifest_are_held_out_whole(mvtec: Path) -> None:
    lines = [f"train/good/{i:03d}.png,part {i // 4}" for i in range(20)]
    (mvtec / "manifest.csv").write_text("\n".join(("path,group", *lines)) + "\n")
    dataset = open_dataset(mvtec, DataConfig(calibrate_fraction=0.2))
    assert len(dataset.calibrate) == 4
    assert len({s.group for s in dataset.calibrate}) == 1
    assert not {s.group for s in dataset.calibrate} & {s.group for s in dataset.train}


def test_a_space_after_a_comma_loses_no_group(mvtec: Path) -> None:
    lines = [f"train/good/{i:03d}.png, part {i // 4}" for i in range(20)]
    (mvtec / "manifest.csv").write_text("\n".join(("path, group", *lines)) + "\n")
    dataset = open_dataset(mvtec, DataConfig(calibrate_fraction=0.2))
    assert {s.group for s in dataset.calibrate} < {f"part {i}" for i in range(5)}
    assert len({s.group for s in dataset.train + dataset.calibrate}) == 5


@pytest.mark.parametrize("name", ["train\\good\\{}.png", "good/{}.png", "/parts/train/good/{}.png"])
def test_a_group_of_an_image_that_is_not_there_is_no_group_lost(mvtec: Path, name: str) -> None:
    """What was written on another computer: the parts' photographs would fall on both sides."""
    if os.name == "nt" and "\\" in name:
        pytest.skip("a path like any other here")
    lines = [f"{name.format(f'{i:03d}')},part {i // 4}" for i in range(20)]
    (mvtec / "manifest.csv").write_text("\n".join(("path,group", *lines)) + "\n")
    with pytest.raises(DataError, match=r"manifest\.csv: 20 of the 20 images .* are not images of"):
        open_dataset(mvtec, DataConfig())


def test_hidden_files_and_other_files_are_no_images(mvtec: Path) -> None:
    good = mvtec / "train" / "good"
    (good / "notes.txt").write_text("3 good")
    (good / "._000.png").write_bytes(b"resource fork")
    (good / ".cache").mkdir()
    (good / ".cache" / "000.png").write_bytes(b"thumbnail")
    (good / "view.GIF").write_bytes(b"GIF89a")
    dataset = open_dataset(mvtec, DataConfig())
    assert len(dataset.train + dataset.calibrate) == 20
    assert dataset.unsupported == (good / "view.GIF",)


def test_one_folder_above_the_data_set_says_which_to_give(tmp_path: Path, write: Write) -> None:
    write("tiles/train/good/0.png")
    with pytest.raises(DataError, match=r"several data sets \(tiles\); give one, for example"):
        open_dataset(tmp_path, DataConfig())


def test_an_empty_train_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in train.good"):
        open_dataset(tmp_path, DataConfig())


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such folder or CSV file"):
        open_dataset(tmp_path / "gone", DataConfig())
    with pytest.raises(DataError, match="expected a folder for the mvtec layout"):
        open_dataset(tmp_path / "gone", DataConfig(layout="mvtec"))


def test_a_link_from_test_to_a_training_image_is_refused(mvtec: Path) -> None:
    try:
        os.symlink(mvtec / "train/good/000.png", mvtec / "test/good/copy.png")
    except OSError:
        pytest.skip("no symbolic links on this file system")
    with pytest.raises(DataError, match=r"test/good/copy\.png \(test\) .*one file"):
        open_dataset(mvtec, DataConfig())


@pytest.mark.parametrize("hidden", [False, True])
def test_a_link_to_a_folder_is_refused_not_left_out(mvtec: Path, hidden: bool) -> None:
    link = mvtec / "train" / "good" / (".monday" if hidden else "monday")
    try:
        os.symlink(mvtec / "test" / "good", link, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links on this file system")
    if hidden:
        assert open_dataset(mvtec, DataConfig()).train
    else:
        with pytest.raises(DataError, match=r"good/monday: a link to a folder, whose images"):
            open_dataset(mvtec, DataConfig())


def test_a_group_in_train_and_in_the_calibrate_folder_is_refused(mvtec: Path, write: Write) -> None:
    write("calibrate/good/a.png")
    lines = "path,group\ntrain/good/000.png,part 7\ncalibrate/good/a.png,part 7\n"
    (mvtec / "manifest.csv").write_text(lines)
    with pytest.raises(DataError, match="part 7 are both in train and in calibrate"):
        open_dataset(mvtec, DataConfig())


# A plain folder


def test_a_folder_of_good_parts(tmp_path: Path, write: Write) -> None:
    for i in range(10):
        write(f"monday/{i}.png" if i % 2 else f"{i}.png")
    dataset = open_dataset(tmp_path, DataConfig(calibrate_fraction=0.3))
    assert dataset.layout == "folder"
    assert (len(dataset.train), len(dataset.calibrate), dataset.test) == (7, 3, ())
    assert {s.label for s in dataset.train + dataset.calibrate} == {GOOD}


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("train/Good/a.png", "test/scratch/b.png"), "test, train"),
        (("good/a.png", "bad/b.png"), "bad, good"),
        (("OK/a.png", "scratch/b.png"), "OK"),
        (("ok/a.png", "b.png"), "ok"),
        (("lot1/NG/a.png",), "NG"),
        (("ground_truth/a.png",), "ground_truth"),
        (("a.png", "a_mask.png"), "a_mask.png"),
    ],
)
def test_a_folder_that_holds_more_than_good_parts_is_refused(
    tmp_path: Path, write: Write, names: tuple[str, ...], named: str
) -> None:
    """Nothing would tell a beginner that the defects were trained as good parts."""
    for name in (*names, *(f"{Path(names[0]).parent}/more{i}.png" for i in range(10))):
        write(name)
    with pytest.raises(DataError, match=rf"holds {named} and so more than good parts") as error:
        open_dataset(tmp_path, DataConfig())
    assert "train/good" in str(error.value)
    assert "--layout folder" in str(error.value)
    taken = open_dataset(tmp_path, DataConfig(layout="folder"))
    assert len(taken.train) + len(taken.calibrate) == len(names) + 10


@pytest.mark.parametrize("folders", [("monday", "tuesday"), ("good",), ("camera 1/lot 3",)])
def test_good_parts_may_lie_in_folders_of_their_own(
    tmp_path: Path, write: Write, folders: tuple[str, ...]
) -> None:
    for folder in folders:
        for index in range(10):
            write(f"{folder}/{index}.png")
    assert open_dataset(tmp_path, DataConfig()).layout == "folder"


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images \(\.png, \.jpg"):
        open_dataset(tmp_path, DataConfig())


# CSV


def test_csv_with_every_column(tmp_path: Path, write: Write) -> None:
    for i in range(6):
        write(f"{i}.png")
    write("m.png", mask=True)
    path = write_csv(
        tmp_path,
        "1.png,train,,,a,extra",
        "0.png,train,good,,a,extra",
        "2.png,calibrate,,,b,extra",
        "3.png,test,good,,c,extra",
        "4.png,test,dent,m.png,,extra",
        "missing.png,excluded,dent,,,extra",
        head="path,split,label,mask,group,note",
    )
    dataset = open_dataset(path, DataConfig())
    assert names(dataset, "train") == ["0.png", "1.png"]
    assert names(dataset, "calibrate") == ["2.png"]
    dent = Sample(tmp_path / "4.png", "dent", tmp_path / "m.png", "4.png")
    assert dataset.test == (Sample(tmp_path / "3.png", GOOD, None, "c"), dent)


def test_csv_as_a_spreadsheet_saves_it(tmp_path: Path, write: Write) -> None:
    for i in range(3):
        write(f"ü {i}.png")
    lines = "".join(f"ü {i}.png;train\r\n" for i in range(3))
    (tmp_path / "manifest.csv").write_bytes(("path;split\r\n" + lines).encode("utf-8-sig"))
    dataset = open_dataset(tmp_path, DataConfig())
    assert dataset.layout == "csv"
    assert len(dataset.train) == 2
    assert len(dataset.calibrate) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0.png,trian,good,,", "line 4: split 'trian' is not one of train, calibrate, test"),
        ("9.png,train,good,,", "line 4: image '9.png' is not a file beside the CSV"),
        (",train,good,,", "line 4: image '' is not a file"),
        ("1.png,train,good,,", "line 4: 1.png is already listed in line 2"),
        ("0.png,train,dent,,", "line 4: 0.png is 'dent'; only good parts train or calibrate"),
        ("0.png,calibrate,dent,,", "line 4: 0.png is 'dent'; only good parts"),
        ("0.png,test,Good,,", "line 4: label: 'Good' would count as a kind of defect; if it means"),
        ("0.png,test,OK,,", "good parts, rename it to 'good'"),
        ("0.png,train,ok,,", "good parts, rename it to 'good'"),
        ("0.png,test,,,", "line 4: a test image needs a label"),
        ("0.png,test,dent,9.png,", "line 4: mask '9.png' is not a file beside the CSV"),
        ("0.png,test,good,,a", "good parts of the groups a are both in test and in train"),
        ("0.png,calibrate,good,,a", "the groups a are both in train and in calibrate"),
    ],
)
def test_a_wrong_csv_line_is_named(tmp_path: Path, write: Write, line: str, words: str) -> None:
    for i in range(3):
        write(f"{i}.png")
    path = write_csv(tmp_path, "1.png,train,good,,a", "2.png,train,good,,b", line)
    with pytest.raises(DataError) as caught:
        open_dataset(path, DataConfig())
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_defects_may_share_a_group_with_training_parts(tmp_path: Path, write: Write) -> None:
    for i in range(3):
        write(f"{i}.png")
    path = write_csv(tmp_path, "0.png,train,,,a", "1.png,train,,,b", "2.png,test,dent,,a")
    assert len(open_dataset(path, DataConfig()).test) == 1


def test_csv_without_its_columns_or_lines(tmp_path: Path, write: Write) -> None:
    write("0.png")
    with pytest.raises(DataError, match=r"no column split; its first line must name"):
        open_dataset(write_csv(tmp_path, "0.png", head="path"), DataConfig())
    with pytest.raises(DataError, match="no line with split train"):
        open_dataset(write_csv(tmp_path, "0.png,test,good,,"), DataConfig())
    path = tmp_path / "latin.csv"
    path.write_bytes("path,split\nTür.png,train\n".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as a UTF-8 CSV"):
        open_dataset(path, DataConfig())


def test_a_quote_that_is_not_closed_takes_no_lines_with_it(tmp_path: Path, write: Write) -> None:
    for i in range(6):
        write(f"{i}.png")
    lines = [f"{i}.png,train,good,,part {i}" for i in range(6)]
    lines[3] = '3.png,train,good,,"part 3'
    with pytest.raises(DataError, match=r"cannot be read as a CSV file .*is a quote not closed"):
        open_dataset(write_csv(tmp_path, *lines), DataConfig())
    more = [f"{i}.png,excluded,good,," for i in range(10_000)]  # beyond what csv takes for a cell
    with pytest.raises(DataError, match="is a quote not closed"):
        open_dataset(write_csv(tmp_path, *lines, *more), DataConfig())


def test_a_name_in_another_encoding_is_named(tmp_path: Path, write: Write) -> None:
    for i in range(3):
        write(f"{i}.png")
    try:
        os.rename(tmp_path / "2.png", os.fsencode(tmp_path) + b"/T\xfcr.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system has only UTF-8 names")
    with pytest.raises(DataError, match=r"T\\xfcr\.png' is not UTF-8; rename"):
        open_dataset(tmp_path, DataConfig())


# The hold-out


def samples(sizes: list[int]) -> list[Sample]:
    """Good parts in groups of these sizes."""
    return [
        Sample(Path(f"{g}_{i}.png"), GOOD, None, f"group {g}")
        for g, size in enumerate(sizes)
        for i in range(size)
    ]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    fraction=st.floats(0.02, 0.9),
    seed=st.integers(0, 5),
    shuffle=st.randoms(use_true_random=False),
)
def test_hold_out_is_whole_groups_near_the_share_in_any_order(
    sizes: list[int], fraction: float, seed: int, shuffle: object
) -> None:
    ordered = samples(sizes)
    train, held = hold_out(ordered, fraction, seed)
    assert sorted(train + held, key=ordered.index) == ordered
    assert train
    assert held
    assert not {s.group for s in train} & {s.group for s in held}
    if len(train) > max(sizes):  # it was not stopped by the last group
        assert abs(len(held) - fraction * len(ordered)) <= max(sizes)

    shuffled = list(ordered)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {s.path for s in hold_out(shuffled, fraction, seed)[1]} == {s.path for s in held}


def test_another_seed_holds_out_others_and_the_same_seed_the_same() -> None:
    parts = samples([1] * 40)
    drawn = [frozenset(s.path for s in hold_out(parts, 0.15, n)[1]) for n in (0, 1)]
    assert {len(d) for d in drawn} == {6}
    assert drawn[0] != drawn[1]
    assert drawn[0] == {s.path for s in hold_out(parts, 0.15, 0)[1]}


def test_a_part_added_later_moves_few_across() -> None:
    parts = samples([1] * 100)
    before = {s.path for s in hold_out(parts[:-1], 0.15, 0)[1]}
    after = {s.path for s in hold_out(parts, 0.15, 0)[1]}
    assert len(before ^ after) <= 2


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"only 1 group of good parts \(group 0, 5 images\)"):
        hold_out(samples([5]), 0.15, 0)


# Real photographs


@pytest.mark.real_parts
@pytest.mark.parametrize("layout", ["mvtec", "csv"])
def test_magnetic_tiles_of_one_part_never_have_two_roles(
    shared: Path, layout: Literal["mvtec", "csv"]
) -> None:
    dataset = open_dataset(shared / "data" / "mtd", DataConfig(layout=layout))
    groups = {
        role: {s.group for s in found if s.label == GOOD} for role, found in dataset.roles().items()
    }
    assert not groups["train"] & groups["calibrate"]
    assert not groups["train"] & groups["test"]
    assert not groups["calibrate"] & groups["test"]
    assert dataset.shared_groups() == ()
    share = len(dataset.calibrate) / len(dataset.train + dataset.calibrate)
    assert abs(share - DataConfig().calibrate_fraction) < 0.01
    assert all(s.mask for s in dataset.test if s.label != GOOD)
    assert len({s.path for found in dataset.roles().values() for s in found}) == 1340
