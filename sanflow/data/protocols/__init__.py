"""The public data sets, by name of the layout: what each consists of, and how it is read.

A category is one train and test problem of a data set: a product, a scene, a normal class, a split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import DataConfig
from ..samples import Dataset
from . import btad, cifar, classes, mtd, mvtec, stc, visa
from .whole import Progress


@dataclass(frozen=True)
class Protocol:
    """How one public data set is read."""

    title: str
    categories: Callable[[Path], tuple[str, ...]]
    """Those that the folder holds; DataError, with what is missing, if it is another folder."""
    read: Callable[[Path, str, DataConfig], Dataset]
    """One of its categories; DataError if that is not complete."""


PROTOCOLS = {
    "mvtec-ad": Protocol("MVTec AD", mvtec.categories, mvtec.read),
    "visa": Protocol("VisA", visa.categories, visa.read),
    "btad": Protocol("BTAD", btad.categories, btad.read),
    "mtd": Protocol("MTD", mtd.categories, mtd.read),
    "stc": Protocol("the unpacked ShanghaiTech Campus", stc.categories, stc.read),
    "classes": Protocol("the class folders", classes.categories, classes.read),
}

UNPACK: dict[str, Callable[[Path, Path, Progress | None], None]] = {
    "cifar10": cifar.unpack_cifar10,
    "cifar100": cifar.unpack_cifar100,
    "stc": stc.unpack,
}
"""Data sets that do not come as one picture per file, from the download to a new folder."""
