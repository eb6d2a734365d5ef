"""The contract of a method: all that training, calibration, export and evaluation know of one.

observe     images -> what the parts that see the image make of them
draws       the optimiser steps of one batch: which levels and positions each trains on
loss        an observed batch and one draw -> what to minimise
fit_...     constants taken from good images, before training and after it
forward     images -> (score, map): exactly what is exported
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .config import LossConfig, MethodConfig
from .extractor import Backbone

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Own = TypeVar("Own")


class Seen(Protocol):
    """What `observe` returns."""

    def detached(self: Own) -> Own:
        """The same values without their history: further steps do not train what made them."""


S = TypeVar("S", bound=Seen)


@dataclass(frozen=True)
class Draw:
    """What one optimiser step trains on."""

    indices: tuple[Tensor | None, ...] = ()
    """Per level the flat positions; None takes all."""
    levels: tuple[int, ...] = ()
    """The levels that `indices` are of."""
    noise: float = 0.0
    """Deviation of what is added to the features: a density fitted to noisy features is smooth at
    that scale."""
    generator: torch.Generator | None = None
    """A CPU one, which the noise is drawn from."""

    def blur(self, v: Tensor) -> Tensor:
        """Features with this step's noise."""
        if self.noise == 0:
            return v
        drawn = torch.randn(v.shape, generator=self.generator, dtype=v.dtype)
        return v + self.noise * drawn.to(v.device)


@dataclass(frozen=True)
class Steps:
    """How a batch becomes optimiser steps."""

    positions: float = 1.0
    """Share of each level's positions that a step draws."""
    updates: int = 1
    """Steps per batch, each with its own positions and noise."""
    fibre: int = 0
    """Feature vectors per step, one level at a time; 0 takes all levels in one step."""
    noise: float = 0.0


class Method(nn.Module, Generic[S]):
    """A model of good images. The constructor of each takes its configuration and a `seed`.

    `extractor` is frozen while `loss` is minimised; its parameters are in no checkpoint.
    """

    extractor: Backbone
    level_max: Tensor
    """m_k, the largest log-likelihood of good images per level; empty where no score needs it."""
    pixel_mean: Tensor
    pixel_deviation: Tensor

    def __init__(self, config: MethodConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.normalise_by(IMAGENET_MEAN, IMAGENET_STD)

    def normalise_by(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        """Constants of the input's normalisation, as shares of 255."""
        for name, values in (("pixel_mean", mean), ("pixel_deviation", deviation)):
            constant = 255 * torch.tensor(values)
            self.register_buffer(name, constant[:, None, None], persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) of RGB uint8 images (B, H, W, 3)."""
        # Converted before it is transposed: TensorRT transposes no uint8.
        x = images.to(self.pixel_mean.dtype).permute(0, 3, 1, 2)
        return (x - self.pixel_mean) / self.pixel_deviation

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw scores (B,) and anomaly maps (B, H, W) of RGB uint8 images (B, H, W, 3)."""

    @abstractmethod
    def observe(self, images: Tensor) -> S:
        """What the parts that see the image make of uint8 images (B, H, W, 3)."""

    @abstractmethod
    def summary(self, images: Tensor) -> Tensor:
        """Each uint8 image as one vector (B, d) of features: what makes two images look alike."""

    def draws(
        self, batch: int, steps: Steps, generator: torch.Generator | None = None
    ) -> Iterator[Draw]:
        """The optimiser steps of one batch of `batch` images."""
        for _ in range(steps.updates):
            yield Draw(noise=steps.noise, generator=generator)

    @abstractmethod
    def loss(
        self, observed: S, masks: Tensor, draw: Draw, config: LossConfig
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of an observed batch with anomaly masks (B, H, W), to be minimised.

        The values beside it are `loss` and the parts that it is made of.
        """

    def fit_feature_scale(self, batches: Iterable[Tensor]) -> None:
        """Before training: constants of the features over batches of good uint8 images."""
        return

    @property
    def fits_level_max(self) -> bool:
        """Whether m_k is taken from good images."""
        return self.level_max.numel() > 0

    def fit_level_max(self, batches: Iterable[Tensor]) -> None:
        """After training: m_k over batches of good uint8 images, where the score needs it."""
        return
