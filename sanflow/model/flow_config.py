"""CFLOW-AD and FastFlow: what can be chosen of them, with and without a statistics head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import EXTRACTORS, PyramidConfig

TRANSFORMER_BLOCKS = {
    "deit_base_distilled_patch16_384": 8,
    "deit_tiny_distilled_patch16_224": 8,
    "cait_m48_448": 41,
    "cait_xxs24_224": 20,
}
"""Timm's transformers, all with patches of 16 pixels, and how many of their blocks are kept: of
the first and the third as published."""


@dataclass(frozen=True)
class CflowConfig(PyramidConfig):
    """CFLOW-AD (methods 3), and with a statistics head CFLOW+SP (methods 2.14)."""

    method: Literal["cflow", "cflow-sp"] = "cflow"
    position_dim: int = 128
    """Channels of the position code; 0 leaves the flow unconditional."""
    permutation: Literal["soft", "hard"] = "soft"
    """`soft` rotates the channels between blocks, `hard` permutes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position_dim < 0 or self.position_dim % 4:
            raise ValueError(f"position_dim {self.position_dim} must be 0 or a multiple of 4")

    @property
    def variance(self) -> str:
        """One, or estimated by the statistics head."""
        return "estimated" if self.method == "cflow-sp" else "unit"

    @property
    def loss_fields(self) -> tuple[str, ...]:
        """The prior of the head."""
        return ("kl_weight",) if self.method == "cflow-sp" else ()


@dataclass(frozen=True)
class FastflowConfig(PyramidConfig):
    """FastFlow (methods 4), and with a statistics head FastFlow+SP (methods 2.14)."""

    method: Literal["fastflow", "fastflow-sp"] = "fastflow"
    taps: tuple[int, ...] = (4, 8, 16)
    """Strides of the tapped feature maps, fine to coarse; any of 4, 8, 16, 32."""
    padding: Literal["reflect", "zeros"] = "zeros"
    """Padding of the extractor's convolutions (MobileNets always keep zeros)."""
    clamp: float = 2.0
    conv3x3_only: bool = False
    """Otherwise 3x3 and 1x1 subnets take turns."""
    hidden_ratio: float = 1.0
    """Hidden channels of a subnet per input channel."""
    layer_norm: bool = True
    """A LayerNorm over each map before its flow, its scale and offset learned for every value."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extractor in TRANSFORMER_BLOCKS and self.taps != (16,):
            raise ValueError(f"{self.extractor} has one map: taps {self.taps} must be (16,)")
        if not 0.01 <= self.hidden_ratio <= 100:
            raise ValueError(f"hidden_ratio {self.hidden_ratio} must be in [0.01, 100]")
        if self.layer_norm and self.feature_scale != "none":
            raise ValueError(
                f"feature_scale {self.feature_scale!r} and layer_norm do the same: use one"
            )

    @property
    def extractors(self) -> tuple[str, ...]:
        """Transformers of timm, too."""
        return (*EXTRACTORS, *TRANSFORMER_BLOCKS)

    @property
    def positionwise(self) -> bool:
        """Subnets see neighbours."""
        return False

    @property
    def variance(self) -> str:
        """One, or estimated by the statistics head."""
        return "estimated" if self.method == "fastflow-sp" else "unit"

    @property
    def scores_volume(self) -> bool:
        """The log-determinant only trains."""
        return False

    @property
    def aligned(self) -> bool:
        """Borders are."""
        return False

    @property
    def loss_fields(self) -> tuple[str, ...]:
        """The prior of the head."""
        return ("kl_weight",) if self.method == "fastflow-sp" else ()
