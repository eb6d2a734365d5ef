"""Each public data set is read from its true tree, and a wrong or partial download is named."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sanflow.cli import app
from sanflow.data.check import check_dataset
from sanflow.data.config import DataConfig, Layout
from sanflow.data.layout import GOOD, Dataset, open_dataset
from sanflow.errors import DataError
from sanflow.imaging import read_mask

from .conftest import Put


def opened(root: Path, layout: Layout, category: str | None) -> Dataset:
    """The data set, after every image and mask of it was read."""
    config = DataConfig(layout=layout, category=category)
    dataset = open_dataset(root, config)
    report = check_dataset(dataset, config)
    assert report.findings == ()
    return dataset


def sizes(dataset: Dataset) -> tuple[int, int, dict[str, int]]:
    """Good parts that train and calibrate together, those held out, and the test by label."""
    trained = len(dataset.train) + len(dataset.calibrate)
    return trained, len(dataset.calibrate), dict(Counter(s.label for s in dataset.test))


def refusal(root: Path, layout: Layout, category: str | None) -> str:
    """The message of a data set that cannot be opened; it names the place."""
    with pytest.raises(DataError) as caught:
        open_dataset(root, DataConfig(layout=layout, category=category))
    assert str(root) in str(caught.value)
    return str(caught.value)


# MVTec AD


def test_mvtec_ad(mvtec_ad: Path) -> None:
    dataset = opened(mvtec_ad, "mvtec-ad", "screw")
    assert sizes(dataset) == (10, 1, {GOOD: 2, "scratch": 2})
    assert dataset.relative(dataset.test[0].path) == "screw/test/good/000.png"
    assert all((s.mask is None) == (s.label == GOOD) for s in dataset.test)


def test_a_category_is_needed_and_must_be_there(mvtec_ad: Path) -> None:
    assert "no --category was given; MVTec AD here has bottle, screw" in refusal(
        mvtec_ad, "mvtec-ad", None
    )
    assert "no category 'pill'; MVTec AD here has bottle, screw" in refusal(
        mvtec_ad, "mvtec-ad", "pill"
    )


def test_another_folder_is_not_mvtec_ad(mvtec_ad: Path) -> None:
    text = refusal(mvtec_ad / "bottle", "mvtec-ad", "bottle")
    assert "this is not MVTec AD: none of bottle, cable" in text


def test_mvtec_ad_without_a_mask(mvtec_ad: Path) -> None:
    (mvtec_ad / "bottle/ground_truth/scratch/001_mask.png").unlink()
    text = refusal(mvtec_ad, "mvtec-ad", "bottle")
    assert "1 defective images have no mask (bottle/test/scratch/001.png)" in text
    opened(mvtec_ad, "mvtec-ad", "screw")


def test_mvtec_ad_without_its_test(mvtec_ad: Path) -> None:
    shutil.rmtree(mvtec_ad / "bottle/test")
    text = refusal(mvtec_ad, "mvtec-ad", "bottle")
    assert "no good test images; there are no defective test images" in text


def test_a_mask_of_another_size_is_named(mvtec_ad: Path, put: Put) -> None:
    put("bottle/ground_truth/scratch/001_mask.png", mask=255, height=8)
    config = DataConfig(layout="mvtec-ad", category="bottle")
    (finding,) = check_dataset(open_dataset(mvtec_ad, config), config).findings
    assert finding.problem == "wrong size"
    assert finding.detail == "the mask is 16x8, its image 16x12"


def test_the_commands_take_a_category(mvtec_ad: Path) -> None:
    words = ["check", str(mvtec_ad), "--size", "64", "--layout", "mvtec-ad", "--category"]
    done = CliRunner().invoke(app, [*words, "screw"])
    assert done.exit_code == 0, done.output
    assert (
        "every image can be used (mvtec-ad screw layout: 9 train, 1 calibrate, 4 test)"
        in done.stdout
    )
    done = CliRunner().invoke(app, [*words, "pill"])
    assert done.exit_code == 2
    assert "no category 'pill'" in done.stderr


# The same tree under a user's own names


def test_a_category_of_ones_own_tree(mvtec_ad: Path) -> None:
    (mvtec_ad / "screw").rename(mvtec_ad / "my-part")
    for layout in ("auto", "mvtec"):
        dataset = opened(mvtec_ad, layout, "my-part")  # type: ignore[arg-type]
        assert sizes(dataset) == (10, 1, {GOOD: 2, "scratch": 2})
    assert "the data sets here: bottle, my-part" in refusal(mvtec_ad, "auto", "absent")


def test_groups_of_a_categorys_manifest(mvtec_ad: Path) -> None:
    lines = [f"train/good/{i:03d}.png,part {i // 5}" for i in range(10)]
    (mvtec_ad / "screw/manifest.csv").write_text("\n".join(("path,group", *lines)) + "\n")
    dataset = opened(mvtec_ad, "mvtec", "screw")
    assert {s.group for s in dataset.train} ^ {s.group for s in dataset.calibrate} == {
        "part 0",
        "part 1",
    }


def test_layouts_without_categories_refuse_one(tmp_path: Path, put: Put) -> None:
    for i in range(3):
        put(f"{i}.png")
    assert "the folder layout has no categories" in refusal(tmp_path, "folder", "screw")


# VisA


def test_visa(visa: Path) -> None:
    dataset = opened(visa, "visa", "candle")
    assert sizes(dataset) == (6, 1, {GOOD: 2, "anomaly": 2})


def test_the_numbers_in_a_visa_mask_are_all_defects(visa: Path, put: Put) -> None:
    mask = put("mask.png", mask=1)
    assert read_mask(mask).sum() == 6
    assert all(read_mask(s.mask).sum() == 6 for s in opened(visa, "visa", "candle").test if s.mask)


def test_visa_without_its_table(visa: Path) -> None:
    (visa / "split_csv/1cls.csv").unlink()
    assert "split_csv/1cls.csv is not there" in refusal(visa, "visa", "candle")


def test_visa_with_another_table(visa: Path) -> None:
    (visa / "split_csv/1cls.csv").write_text("path,split\n")
    text = refusal(visa, "visa", "candle")
    assert "no column object, label, image, mask" in text


def test_visa_without_some_files(visa: Path) -> None:
    (visa / "candle/Data/Images/Normal/0003.JPG").unlink()
    (visa / "candle/Data/Masks/Anomaly/1.png").unlink()
    assert "2 of 12 files that split_csv/1cls.csv names are missing" in refusal(
        visa, "visa", "candle"
    )


def test_an_object_that_was_not_unpacked(visa: Path) -> None:
    assert "no category 'pcb1'; VisA here has candle" in refusal(visa, "visa", "pcb1")


# BTAD


@pytest.mark.parametrize("product", ["01", "02"])
def test_btad(btad: Path, product: str) -> None:
    dataset = opened(btad, "btad", product)
    assert sizes(dataset) == (6, 1, {GOOD: 1, "ko": 1})
    assert {s.label for s in dataset.train + dataset.calibrate} == {GOOD}


def test_btad_incomplete(btad: Path) -> None:
    shutil.rmtree(btad / "01/ground_truth")
    assert "1 defective images have no mask (01/test/ko/0000.bmp)" in refusal(btad, "btad", "01")
    assert "no category '03'; BTAD here has 01, 02" in refusal(btad, "btad", "03")


# MTD


def test_mtd_canonical_is_the_list(mtd: Path) -> None:
    dataset = opened(mtd, "mtd", "canonical")
    kinds = dict.fromkeys(("blowhole", "break", "crack", "fray", "uneven"), 1)
    assert sizes(dataset)[0] == 20
    assert sizes(dataset)[2] == {GOOD: 40, **kinds}
    assert {s.path.name[:4] for s in dataset.train} == {"exp1", "exp3"}
    assert dataset.shared_groups()  # the literature's split leaks


def test_mtd_grouped_keeps_the_views_of_a_tile_together(mtd: Path) -> None:
    dataset = opened(mtd, "mtd", "grouped")
    assert sizes(dataset)[0] == 48
    assert dataset.shared_groups() == ()
    assert {len([s for s in dataset.train if s.group == g]) for g in groups(dataset)} == {6}
    again = open_dataset(mtd, DataConfig(layout="mtd", category="grouped", split_seed=1))
    assert again.test == dataset.test  # the test never moves
    assert again.calibrate != dataset.calibrate


def groups(dataset: Dataset) -> set[str]:
    """The groups that train."""
    return {s.group for s in dataset.train}


def test_mtd_incomplete(mtd: Path) -> None:
    (mtd / "MT_Free/Imgs/exp1_num_1000.jpg").unlink()
    assert "1 of its 20 pictures are not in MT_Free" in refusal(mtd, "mtd", "canonical")
    (mtd / "mtd_train_filenames.txt").unlink()
    assert "needs DifferNet's list" in refusal(mtd, "mtd", "canonical")
    opened(mtd, "mtd", "grouped")
    shutil.rmtree(mtd / "MT_Fray")
    assert "MTD is not complete here: MT_Fray missing" in refusal(mtd, "mtd", "grouped")


# One class against all others


def test_one_class(class_folders: Path) -> None:
    dataset = opened(class_folders, "classes", "dog")
    assert sizes(dataset) == (6, 1, {GOOD: 2, "cat": 2, "frog": 2})
    assert {s.path.parent.name for s in dataset.train} == {"dog"}
    assert {s.path.parent.name for s in dataset.test if s.label == GOOD} == {"dog"}


def test_an_empty_class(class_folders: Path) -> None:
    shutil.rmtree(class_folders / "test/cat")
    (class_folders / "test/cat").mkdir()
    assert "no images of the class cat" in refusal(class_folders, "classes", "dog")
    (class_folders / "test/cat").rmdir()
    assert "cat is in one only" in refusal(class_folders, "classes", "dog")


def test_class_folders_that_are_not(class_folders: Path, put: Put) -> None:
    assert "no folder train" in refusal(class_folders / "train", "classes", "dog")
    put("train/good/0.png")
    put("test/good/0.png")
    assert "which can only be the normal one" in refusal(class_folders, "classes", "dog")
