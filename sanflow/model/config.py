"""What a model is: every choice that changes its mathematics, with the reference's defaults.

`MethodConfig` is what all of sanflow knows of any method, `PyramidConfig` what methods share that
fit one flow to each level of an extractor's maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

EXTRACTORS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "mobilenet_v2",
    "mobilenet_v3_large",
)
MOST_SORTED = 3840
"""Values that TensorRT sorts at once."""
BOTTLENECKS = ("resnet50", "wide_resnet50_2", "wide_resnet101_2")


@dataclass(frozen=True)
class MethodConfig:
    """What every method has; a method's own class adds a `method` that is a Literal of its names.

    What is a property here has the value of a method that judges an image as a whole.
    """

    method: str
    extractor: str
    height: int = 256
    width: int = 256

    @property
    def taps(self) -> tuple[int, ...]:
        """Strides of the tapped feature maps, fine to coarse."""
        return ()

    @property
    def pools(self) -> tuple[int, ...]:
        """Sides of the pooled levels."""
        return ()

    @property
    def padding(self) -> str:
        """Padding of the extractor's convolutions."""
        return "zeros"

    @property
    def feature_scale(self) -> str:
        """How features are standardised."""
        return "none"

    @property
    def fusion(self) -> str:
        """How levels become one map."""
        return "none"

    @property
    def image_score(self) -> str:
        """How the map becomes the score; `image` where the score comes first."""
        return "image"

    @property
    def top_fraction(self) -> float:
        """Share of the map's pixels that the score sorts."""
        return 0.0

    @property
    def localises(self) -> bool:
        """Whether the map says where; otherwise each of its values is the image's score."""
        return False

    @property
    def ceiling(self) -> float | None:
        """The largest value of the map; None where it has no bound."""
        return None

    @property
    def anomalies(self) -> bool:
        """Whether training batches may hold synthetic anomalies."""
        return False

    @property
    def classifies(self) -> bool:
        """Whether a classifier of defects learns before the flows."""
        return False

    @property
    def positionwise(self) -> bool:
        """Whether a step may be trained on a share of the positions."""
        return False

    @property
    def loss_fields(self) -> tuple[str, ...]:
        """The fields of the loss's configuration that this method reads."""
        return ()


@dataclass(frozen=True)
class PyramidConfig(MethodConfig):
    """One flow per level of an extractor's maps, fused to one anomaly map (methods 1)."""

    extractor: str = "wide_resnet50_2"
    height: int = 256
    width: int = 256
    taps: tuple[int, ...] = (8, 16, 32)
    """Strides of the tapped feature maps, fine to coarse; any of 4, 8, 16, 32."""
    pools: tuple[int, ...] = ()
    """Sides g of further levels: all tapped maps averaged to g x g cells and joined; (1,) judges
    the part as a whole."""
    padding: Literal["reflect", "zeros"] = "reflect"
    """Padding of the extractor's convolutions (MobileNets always keep zeros)."""
    pool_weight: float = 1.0
    """How much a pooled level counts in the fused map, where a tap counts 1."""
    stride_on: Literal["3x3", "1x1"] = "3x3"
    """Which convolution of a bottleneck strides: torchvision's weights `3x3`, Keras's `1x1`."""
    feature_scale: Literal["none", "standard", "position"] = "none"
    """`standard`: each channel is standardised with its mean and deviation over good images;
    `position`: at every position by itself, for parts that always lie the same way."""
    smooth: int = 1
    """Side of the mean filter over each tapped map (odd; 1 is none)."""
    blocks: int = 8
    clamp: float = 1.9
    head_width: int = 64
    """Channels of a statistics head, where the method has one."""
    prior_window: int = 11
    prior_variance: float = 0.1
    variance_rule: Literal["mode", "expectation"] = "mode"
    """How the inverse gamma becomes a variance when scoring (methods 2.4)."""
    max_variance: float = 5.0
    fusion: Literal["likelihood", "log_likelihood"] = "likelihood"
    """`likelihood`: K - sum Up(exp(l - m)); `log_likelihood`: sum Up(m - l), never saturates."""
    map_sigma: float = 0.0
    """Deviation, in pixels, of the Gaussian that smooths the fused map; 0 leaves it as it is."""
    image_score: Literal["max", "top"] = "max"
    top_fraction: float = 0.01
    """Share of map pixels averaged by `image_score = "top"`."""

    def __post_init__(self) -> None:
        if self.extractor not in self.extractors:
            known = ", ".join(self.extractors)
            raise ValueError(f"extractor {self.extractor!r} is not one of {known}")
        if not self.taps or list(self.taps) != sorted(set(self.taps) & {4, 8, 16, 32}):
            raise ValueError(f"taps {self.taps} must be strides from 4, 8, 16, 32, fine to coarse")
        coarsest = max(self.taps)
        if self.height % coarsest or self.width % coarsest:
            raise ValueError(
                f"image size {self.height}x{self.width} must be a multiple of {coarsest}"
            )
        if min(self.height, self.width) < max(32, 2 * coarsest):
            raise ValueError(
                f"image size {self.height}x{self.width} is below {max(32, 2 * coarsest)}, "
                f"which taps {self.taps} need"
            )
        cells = math.gcd(self.height // coarsest, self.width // coarsest)
        if list(self.pools) != sorted(set(self.pools), reverse=True) or any(
            g < 1 or cells % g for g in self.pools
        ):
            raise ValueError(
                f"pools {list(self.pools)} must be different divisors of {cells}, the cells that "
                f"the coarsest tap has along both sides, large to small; model.pools=[{cells}] "
                "takes each of them"
            )
        if self.pool_weight <= 0:
            raise ValueError(f"pool_weight {self.pool_weight} must be positive")
        if not 0 <= self.map_sigma <= min(self.height, self.width) / 8:
            raise ValueError(
                f"map_sigma {self.map_sigma} must be from 0 to an eighth of the image's side"
            )
        if self.stride_on == "1x1" and self.extractor not in BOTTLENECKS:
            raise ValueError(f"stride_on '1x1' is for {', '.join(BOTTLENECKS)} only")
        if self.smooth < 1 or self.smooth % 2 == 0:
            raise ValueError(f"smooth {self.smooth} must be odd and at least 1")
        if self.blocks < 1 or self.clamp <= 0 or self.head_width < 1:
            raise ValueError("blocks, clamp and head_width must be positive")
        if not 0 < self.top_fraction <= 1:
            raise ValueError(f"top_fraction {self.top_fraction} must be in (0, 1]")
        pixels = self.height * self.width
        top = round(self.top_fraction * pixels)
        if self.image_score == "top" and top > MOST_SORTED:
            raise ValueError(
                f"top_fraction {self.top_fraction} of {self.height}x{self.width} pixels is {top} "
                f"values; TensorRT sorts at most {MOST_SORTED}: use a top_fraction below "
                f"{MOST_SORTED / pixels:.4f}"
            )
        if self.prior_variance <= 0 or self.max_variance <= 0 or self.prior_window < 2:
            raise ValueError("prior_window must be at least 2, both variances positive")

    @property
    def localises(self) -> bool:
        """The map says where."""
        return True

    @property
    def extractors(self) -> tuple[str, ...]:
        """The extractors it can have."""
        return EXTRACTORS

    @property
    def positionwise(self) -> bool:
        """Positions do not interact, so a share of them can be trained."""
        return True

    @property
    def variance(self) -> str:
        """The base density's: `unit`, `fixed` at the prior's mode, or `estimated` by a head."""
        return "unit"

    @property
    def mean(self) -> str:
        """The base density's: `fixed` at 0, or `estimated` by a second head."""
        return "fixed"

    @property
    def scores_volume(self) -> bool:
        """Whether the log-determinant is part of the score."""
        return True

    @property
    def aligned(self) -> bool:
        """Whether maps are enlarged with aligned corners (else borders)."""
        return True

    @property
    def levels(self) -> int:
        """How many log-likelihood maps are fused: one per tap and one per pool."""
        return len(self.taps) + len(self.pools)

    @property
    def fused(self) -> float | None:
        """The largest value that the levels fuse to; None where it has no bound."""
        whole = len(self.taps) + self.pool_weight * len(self.pools)
        return whole if self.fusion == "likelihood" else None

    @property
    def ceiling(self) -> float | None:
        """The same: they are the whole map."""
        return self.fused


@dataclass(frozen=True)
class SanflowConfig(PyramidConfig):
    """SANFlow (methods 2). `variance` and `mean` span the ablations of table 2.12."""

    method: Literal["sanflow"] = "sanflow"
    position_dim: int = 512
    variance: Literal["estimated", "fixed", "unit"] = "estimated"
    """`estimated` by the statistics head; `fixed` at the prior's mode xi; `unit` (Eq. 2)."""
    mean: Literal["fixed", "estimated"] = "fixed"
    """`fixed`: 0 for normal, `mean_margin` for abnormal; `estimated` by a second head (3b, 3c)."""
    mean_margin: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position_dim < 4 or self.position_dim % 4:
            raise ValueError(f"position_dim {self.position_dim} must be a positive multiple of 4")
        if self.mean_margin <= 0:
            raise ValueError(f"mean_margin {self.mean_margin} must be positive")

    @property
    def anomalies(self) -> bool:
        """It learns from synthetic anomalies too."""
        return True

    @property
    def loss_fields(self) -> tuple[str, ...]:
        """All of them."""
        return ("form", "bce_weight", "kl_weight", "half_log_variance", "bce")


@dataclass(frozen=True)
class LossConfig:
    """L = L_NLL + bce_weight L_BCE + kl_weight L_KL (methods 2.6); a method reads what it names.

    A field that a method does not read has to keep its default there.
    """

    form: Literal["paper", "official"] = "paper"
    """`official`: -logsigmoid((log p + J - kl KL - bce CE) / C), the released code's form."""
    bce_weight: float = 1.0
    kl_weight: float = 0.2
    half_log_variance: bool = True
    """False drops the 1/2 before (log b - psi a) as the released code does (methods 2.4)."""
    bce: Literal["logits", "official"] = "logits"
    """`official`: cross-entropy of an already normalised softmax (methods 2.5)."""

    def __post_init__(self) -> None:
        if self.bce_weight < 0 or self.kl_weight < 0:
            raise ValueError(
                f"bce_weight {self.bce_weight} and kl_weight {self.kl_weight} must not be negative"
            )
