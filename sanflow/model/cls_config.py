"""What shapes CLS-CNF: conditional flows and a pixelwise classifier on one extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import BOTTLENECKS, PyramidConfig


@dataclass(frozen=True)
class ClsCnfConfig(PyramidConfig):
    """CLS-CNF (methods 7)."""

    method: Literal["cls-cnf"] = "cls-cnf"
    blocks: int = 6
    position_dim: int = 128
    permutation: Literal["soft", "hard"] = "soft"
    """`soft` rotates the channels between blocks, `hard` permutes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position_dim < 4 or self.position_dim % 4:
            raise ValueError(f"position_dim {self.position_dim} must be a positive multiple of 4")
        if self.fusion != "likelihood":
            raise ValueError("fusion must be 'likelihood': the classifier's map is a probability")

    @property
    def decoder(self) -> Literal["bottleneck", "basic"]:
        """The residual blocks of the classifier are the extractor's."""
        return "bottleneck" if self.extractor in BOTTLENECKS else "basic"

    @property
    def classifies(self) -> bool:
        """Its second map is a classifier's."""
        return True

    @property
    def ceiling(self) -> float | None:
        """The flows' largest value and the classifier's, whose weight is at most 1."""
        return None if self.fused is None else self.fused + 1
