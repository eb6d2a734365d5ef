"""A user's own labelled defects, for the gate: a development set, never the test set.

    FOLDER/test/LABEL/NAME.png, FOLDER/ground_truth/LABEL/NAME_mask.png      the MVTec AD layout
    FOLDER/LABEL/NAME.png or FOLDER/NAME.png, with NAME_mask.png beside or in ground_truth/LABEL

`good` is a label like in test: good parts beside those of the calibration. Masks are optional.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..data.layout import GOOD, Sample
from ..errors import DataError
from ..imaging import IMAGE_SUFFIXES, read_bytes
from ..run import Run
from ..runtime.parity import Reference
from .parts import Kind, Part, Step

_MASK = "_mask"


def find_defects(folder: Path, run: Run) -> list[Sample]:
    """The labelled images of `folder`, in the order of their paths.

    Raises DataError when there is no defect among them, and when one of them is a test, training
    or calibration image of the run: what precision is chosen by cannot measure it afterwards.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --defects takes a folder of labelled images")
    root = folder / "test" if (folder / "test").is_dir() else folder
    truth = folder / "ground_truth"
    samples = [
        _sample(path, root, truth)
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.stem.endswith(_MASK)
        and truth not in path.parents
        and not any(name.startswith(".") for name in path.relative_to(root).parts)
    ]
    if all(sample.label == GOOD for sample in samples):
        raise DataError(
            f"{folder}: {len(samples)} images, none of a defect; --defects takes DIR/LABEL/*.png "
            "or DIR/*.png, with masks as DIR/ground_truth/LABEL/NAME_mask.png"
        )
    _refuse_known(samples, run)
    return samples


def defect_parts(
    samples: Sequence[Sample], run: Run, reference: Reference, step: Step
) -> list[Part]:
    """These images as PyTorch judges them, with their masks at the model's input size."""
    parts = []
    for sample in samples:
        image = run.pixel_path.load(sample.path)
        mask = None if sample.mask is None else run.pixel_path.load_mask(sample.mask, sample.path)
        kind: Kind = "good" if sample.label == GOOD else "defect"
        name = f"{sample.label}/{sample.path.name}"
        parts.append(Part(name, kind, image, *reference(image), mask))
        step()
    return parts


def _sample(path: Path, root: Path, truth: Path) -> Sample:
    folder = path.parent.relative_to(root)
    label = folder.parts[0] if folder.parts else "defect"
    places = (path.parent, truth / folder)
    masks = (p / f"{path.stem}{_MASK}{suffix}" for p in places for suffix in IMAGE_SUFFIXES)
    mask = next((mask for mask in masks if mask.is_file()), None)
    return Sample(path, label, mask, path.name)


def _refuse_known(samples: Sequence[Sample], run: Run) -> None:
    known = {digest: role for role, images in run.record.data.roles.items() for _, digest in images}
    leaked = []
    for sample in samples:
        role = known.get(hashlib.sha256(read_bytes(sample.path)).hexdigest())
        if role is not None:
            leaked.append(f"{sample.path.name} ({role})")
    if leaked:
        raise DataError(
            f"{len(leaked)} of {len(samples)} images given with --defects belong to the run's own "
            f"data ({', '.join(leaked[:5])}{' and more' if len(leaked) > 5 else ''}): a precision "
            "chosen by test images could not be measured on them; give other labelled images"
        )
