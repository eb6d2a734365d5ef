"""What shapes the methods that judge an image as a whole by its class token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import BOTTLENECKS, EXTRACTORS, MethodConfig

TRANSFORMERS = {"vit_b_16": 16, "vit_b_32": 32, "vit_l_16": 16, "vit_l_32": 32}
"""Torchvision's transformers, and the side of a patch in pixels."""


@dataclass(frozen=True)
class TokenConfig(MethodConfig):
    """One flow on an image's class token, fed by its patch tokens (methods 5 and 6)."""

    extractor: str = "vit_b_16"
    height: int = 384
    width: int = 384
    stride: Literal[4, 8, 16, 32] = 16
    """Of a convolutional extractor's map, whose cells are then the patch tokens and whose mean is
    the class token; a transformer has its patch."""
    padding: Literal["reflect", "zeros"] = "reflect"
    """Padding of a convolutional extractor."""
    stride_on: Literal["3x3", "1x1"] = "3x3"
    """Which convolution of a bottleneck strides: torchvision's weights `3x3`, Keras's `1x1`."""
    feature_scale: Literal["none", "standard"] = "none"
    """`standard`: each channel is standardised with its mean and deviation over good images, for
    extractors that do not end in a norm."""
    couplings: int = 4
    hidden: int = 0
    """Width of the subnets' layers; 0 takes the number of a token's channels."""
    heads: int = 4
    """Of the attention, in all."""
    clamp: float = 3.0

    def __post_init__(self) -> None:
        known = (*TRANSFORMERS, *EXTRACTORS)
        if self.extractor not in known:
            raise ValueError(f"extractor {self.extractor!r} is not one of {', '.join(known)}")
        if self.stride_on == "1x1" and self.extractor not in BOTTLENECKS:
            raise ValueError(f"stride_on '1x1' is for {', '.join(BOTTLENECKS)} only")
        if min(self.couplings, self.heads) < 1 or self.hidden < 0 or self.clamp <= 0:
            raise ValueError("couplings, heads and clamp must be positive, hidden not negative")
        cell = self.patch * self.group
        least = 32 if self.extractor in TRANSFORMERS else max(32, 2 * self.stride)
        if min(self.height, self.width) < least or self.height % cell or self.width % cell:
            raise ValueError(
                f"image size {self.height}x{self.width} must be at least {least} and a multiple of "
                f"{cell}, {self.group} patches of {self.patch} pixels"
            )

    @property
    def taps(self) -> tuple[int, ...]:
        """The stride of the map whose cells are the patch tokens."""
        return (self.patch,)

    @property
    def patch(self) -> int:
        """Side in pixels of what one patch token stands for."""
        return TRANSFORMERS.get(self.extractor, self.stride)

    @property
    def group(self) -> int:
        """Side in patches of what is pooled, or looked at together."""
        return 1


@dataclass(frozen=True)
class SanfAdConfig(TokenConfig):
    """SANF-AD (methods 5)."""

    method: Literal["sanf-ad"] = "sanf-ad"
    pool: int = 3
    """Side in patches of the cells whose mean becomes one patch token."""
    layout: Literal["map", "compat"] = "map"
    """`compat` reads tokens as channels before pooling, as the published code does."""

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise ValueError(f"pool {self.pool} must be positive")
        super().__post_init__()

    @property
    def group(self) -> int:
        """The pooled cell's side."""
        return self.pool


@dataclass(frozen=True)
class FoadMfffConfig(TokenConfig):
    """FOAD-MFFF (methods 6)."""

    method: Literal["foad-mfff"] = "foad-mfff"
    heads: int = 8
    """Half of them see high frequencies, half low ones."""
    window: int = 3
    """Side in patches of the windows."""

    def __post_init__(self) -> None:
        if self.window < 2 or self.heads < 2:
            raise ValueError(f"window {self.window} and heads {self.heads} must be at least 2")
        super().__post_init__()

    @property
    def group(self) -> int:
        """The window's side."""
        return self.window
