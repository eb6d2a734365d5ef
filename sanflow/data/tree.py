"""The MVTec AD tree: train/good, test/<label>, ground_truth/<label>/NAME_mask.png.

A `manifest.csv` in the folder may say which images show one part (columns `path` and `group`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import DataError
from ..imaging import IMAGE_SUFFIXES
from .config import DataConfig
from .samples import (
    FOREIGN_SUFFIXES,
    GOOD,
    Dataset,
    Sample,
    files_in,
    hold_out,
    require_defect,
    some,
)
from .table import read_rows

MANIFEST = "manifest.csv"


def read_tree(
    root: Path, folder: Path, config: DataConfig, *, layout: str = "mvtec", good: str = GOOD
) -> Dataset:
    """The tree in `folder`, its paths relative to `root`; `good` is what it calls good parts.

    Raises DataError when there is nothing to train with.
    """
    groups = _manifest_groups(root, folder)
    folders = [folder / "train" / good, folder / "calibrate" / good]
    train, calibrate = (samples_in(root, f, GOOD, groups) for f in folders)
    if not train:
        raise DataError(
            f"{folder}: no images in {folders[0].relative_to(folder)}; the mvtec layout is "
            "train/good, test/<label>, ground_truth/<label>/NAME_mask.png"
        )
    test: list[Sample] = []
    if (folder / "test").is_dir():
        for inner in sorted(p for p in (folder / "test").iterdir() if p.is_dir()):
            if inner.name != good:
                require_defect(inner.name, good, str(inner))
            label = GOOD if inner.name == good else inner.name
            test += samples_in(root, inner, label, groups, _masks(folder, inner.name))
            folders.append(inner)
    named = {s.path.relative_to(root).as_posix() for s in (*train, *calibrate, *test)}
    if lost := sorted(groups.keys() - named):
        raise DataError(
            f"{folder / MANIFEST}: {len(lost)} of the {len(groups)} images that it gives a group "
            f"are not images of this data set ({some(lost)}), so photographs of one part could be "
            "trained on and calibrated with; name each from the folder of the CSV, with forward "
            "slashes (train/good/000.png), or remove its line"
        )
    if not calibrate:
        train, calibrate = hold_out(train, config.calibrate_fraction, config.split_seed)
    foreign = tuple(p for f in folders if f.is_dir() for p in files_in(f, FOREIGN_SUFFIXES))
    return Dataset(root, layout, tuple(train), tuple(calibrate), tuple(test), foreign)


def samples_in(
    root: Path,
    folder: Path,
    label: str,
    groups: Mapping[str, str] | None = None,
    masks: Mapping[str, Path] | None = None,
) -> list[Sample]:
    """A sample per image below `folder`, in the order of their paths; none if it is not there."""
    samples = []
    for path in files_in(folder, IMAGE_SUFFIXES) if folder.is_dir() else ():
        name = path.relative_to(root).as_posix()
        mask = (masks or {}).get(path.relative_to(folder).with_suffix("").as_posix())
        samples.append(Sample(path, label, mask, (groups or {}).get(name, name)))
    return samples


def _masks(folder: Path, label: str) -> dict[str, Path]:
    truth = folder / "ground_truth" / label
    if not truth.is_dir():
        return {}
    files = files_in(truth, IMAGE_SUFFIXES)
    names = (p.relative_to(truth).with_suffix("").as_posix() for p in files)
    return {name.removesuffix("_mask"): p for name, p in zip(names, files, strict=True)}


def _manifest_groups(root: Path, folder: Path) -> Mapping[str, str]:
    """Group of each image by its path from `root`; `manifest.csv` names it from `folder`."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    rows = [row for _, row in read_rows(path, required=("path",))]
    inner = folder.relative_to(root)
    return {
        (inner / r["path"]).as_posix(): r["group"] for r in rows if r["path"] and r.get("group")
    }
