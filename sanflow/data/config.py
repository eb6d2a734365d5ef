"""What the data is: layout, roles, region of interest, and the synthetic anomalies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..imaging import Roi
from .foreground import Foreground

Layout = Literal[
    "auto", "mvtec", "folder", "csv", "mvtec-ad", "visa", "btad", "mtd", "stc", "classes"
]


@dataclass(frozen=True)
class DataConfig:
    """How a folder or CSV file becomes the three roles train, calibrate and test."""

    layout: Layout = "auto"
    category: str | None = None
    """Which product, scene, normal class or split, of a data set that has several."""
    roi: Roi | None = None
    calibrate_fraction: float = 0.15
    """Share of the good training parts held out for calibration, whole groups at a time."""
    split_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.calibrate_fraction < 1:
            raise ValueError(f"calibrate_fraction {self.calibrate_fraction} must be in (0, 1)")


@dataclass(frozen=True)
class SynthConfig:
    """Synthetic anomalies of the paper's supplement B.2; sizes in pixels of a 256-pixel image."""

    enabled: bool = True
    quotas: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Per batch: normal, small rectangle, medium rectangle, circle; the sum is the batch size."""
    small_height: tuple[int, int] = (2, 32)
    small_width: tuple[int, int] = (10, 50)
    medium_height: tuple[int, int] = (16, 64)
    medium_width: tuple[int, int] = (64, 256)
    circle_radius: tuple[int, int] = (10, 25)
    jitter: float = 0.1
    """Largest relative change of brightness, contrast, saturation and hue, drawn per patch."""
    rotation: float = 90.0
    """Largest rotation of a patch, degrees; 90 gives rectangles every direction."""
    blur: float = 2.0
    """Deviation of the Gaussian that softens a patch's border."""
    turn: float = 0.0
    """Largest rotation of a whole good image, degrees (CFLOW-AD: 5)."""
    mirror: Literal["none", "horizontal", "vertical", "both"] = "none"
    """Which ways a whole good image may be mirrored, each every second time: those that a part may
    come in without being a reject."""
    light: float = 0.0
    """Largest relative change of a whole good image's brightness and of its contrast."""

    def __post_init__(self) -> None:
        if min(self.quotas) < 0 or self.quotas[0] < 1:
            raise ValueError(f"quotas {self.quotas}: at least one normal image per batch")
        sides = ("small_height", "small_width", "medium_height", "medium_width")
        for name in (*sides, "circle_radius"):
            low, high = getattr(self, name)
            if not 1 <= low <= high <= 256:
                raise ValueError(f"{name} ({low}, {high}) must be within 1..256, low before high")
        if self.jitter < 0 or self.blur < 0 or self.rotation < 0:
            raise ValueError("jitter, rotation and blur must not be negative")
        if not 0 <= self.turn <= 180:
            raise ValueError(f"turn {self.turn} must be in [0, 180] degrees")
        if not 0 <= self.light < 1:
            raise ValueError(f"light {self.light} must be in [0, 1)")


@dataclass(frozen=True)
class TextureConfig:
    """Synthetic defects of textures (methods 7)."""

    folder: str = ""
    """Of pictures whose content is blended in, such as a texture data set's; empty: none."""
    own: float = 0.5
    """Share of defects whose content comes from another good part instead."""
    grains: int = 6
    """Noise has 2^0 to 2^(grains - 1) cells along each axis."""
    threshold: float = 0.5
    """Blots are where the noise exceeds this."""
    most_kept: float = 0.8
    """How much of the part may shine through a blot, drawn evenly from 0 on."""
    share: float = 1.0
    """Of images that get a defect."""
    foreground: Foreground = "all"
    """Where defects may lie: `dark` or `bright` parts are told from their background by Otsu's
    threshold; `all` for textures and for parts that fill the picture."""
    fill_holes: bool = True
    """Whether what the part surrounds counts as part of it."""
    label: Literal["absolute", "signed"] = "absolute"
    """How a change of brightness becomes a soft label; `signed` as published: defects that darken
    then get labels below one half."""

    def __post_init__(self) -> None:
        for name in ("own", "most_kept", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be in 0 .. 1")
        if not 1 <= self.grains <= 8 or not -1 < self.threshold < 1:
            raise ValueError(
                f"grains {self.grains} must be in 1 .. 8, threshold {self.threshold} in -1 .. 1"
            )
