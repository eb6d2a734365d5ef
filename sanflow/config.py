"""Everything a user can choose about a run: model, data, anomalies, loss, optimiser, pretext."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from .data.config import DataConfig, SynthConfig, TextureConfig
from .model.config import LossConfig, PyramidConfig, SanflowConfig
from .model.options import AnyConfig
from .model.token_config import TRANSFORMERS


@dataclass(frozen=True)
class OptimConfig:
    """Adam with warm-up and cosine decay (methods 1.4)."""

    epochs: int = 80
    """Passes over the training images."""
    sub_epochs: int = 4
    """Passes per meta-epoch: the learning rate is set once per meta-epoch."""
    learning_rate: float = 5e-4
    warmup_meta_epochs: int = 2
    decay: Literal["cosine", "none"] = "cosine"
    """`none` keeps the learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    positions: float = 1.0
    """Share of feature positions drawn at random in each step; 1 takes all."""
    updates: int = 1
    """Steps per batch, each with its own positions and noise. The first trains flows and head, the
    others the flows alone: the extractor and the head, which cost most, run once."""
    fibre: int = 0
    """Feature vectors per step, one level after the other, where there is no statistics head; 0
    takes all levels in one step."""
    feature_noise: float = 0.0
    """Deviation of the Gaussian noise added to the features: regularises; for scaled features."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0
    """Of everything random in training; from 0 to 2^63 - 1."""
    workers: int = 2
    """Threads that prepare batches ahead; 0 prepares in the training thread. Changes no bit."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.sub_epochs, self.updates) < 1 or self.warmup_meta_epochs < 0:
            raise ValueError(
                "epochs, sub_epochs and updates must be positive, warm-up not negative"
            )
        if self.learning_rate <= 0 or not 0 < self.positions <= 1:
            raise ValueError("learning_rate must be positive, positions in (0, 1]")
        if self.feature_noise < 0:
            raise ValueError(f"feature_noise {self.feature_noise} must not be negative")
        if self.fibre < 0 or (self.fibre and self.positions < 1):
            raise ValueError(
                f"fibre {self.fibre} must not be negative, and takes all positions: positions = 1"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must be in [0, 1)")
        if self.epsilon <= 0 or self.weight_decay < 0:
            raise ValueError("epsilon must be positive, weight_decay not negative")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} must be from 0 to {2**63 - 1}")
        if self.workers < 0:
            raise ValueError(f"workers {self.workers} must not be negative")


@dataclass(frozen=True)
class PretextConfig:
    """Teaching an extractor without weights: pixelwise classification of synthetic anomalies."""

    steps: int = 300
    learning_rate: float = 1e-3
    batch: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise ValueError("steps, batch and learning_rate must be positive")
        if self.batch < 2:
            raise ValueError("batch 1 would hold a good image alone, and nothing to learn: give 2")


@dataclass(frozen=True)
class HybridConfig:
    """CLS-CNF's classifier, which learns before the flows do (methods 7)."""

    warmup_epochs: int = 850
    """Passes over the training images in which the decoder learns alone."""
    joint_epochs: int = 150
    """Passes after them in which the extractor learns, too."""
    sub_epochs: int = 10
    """Passes per meta-epoch: the learning rate, a cosine, is set once per meta-epoch."""
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    batch: int = 32
    validation: int = 64
    """Training parts whose textured defects decide the weight of the classifier's map."""
    textures: TextureConfig = field(default_factory=TextureConfig)

    def __post_init__(self) -> None:
        if min(self.warmup_epochs, self.joint_epochs) < 0:
            raise ValueError("warmup_epochs and joint_epochs must not be negative")
        if self.warmup_epochs + self.joint_epochs < 1:
            raise ValueError("warmup_epochs and joint_epochs: at least one pass in all")
        if min(self.sub_epochs, self.batch, self.validation) < 1:
            raise ValueError("sub_epochs, batch and validation must be positive")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError("learning_rate must be positive, weight_decay not negative")


@dataclass(frozen=True)
class RunConfig:
    """Everything a user can choose about a run; stored in it unchanged."""

    model: AnyConfig = field(default_factory=SanflowConfig)
    data: DataConfig = field(default_factory=DataConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pretext: PretextConfig = field(default_factory=PretextConfig)
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    weights: str = "imagenet"
    """`imagenet` (torchvision's download), `none` (taught on the good images), or a file."""

    def __post_init__(self) -> None:
        model, name = self.model, self.model.method
        if self.weights == "none" and model.extractor in TRANSFORMERS:
            raise ValueError(
                f"weights 'none': {model.extractor} cannot be taught on good images; give "
                "'imagenet', a file, or another extractor"
            )
        if self.synth.enabled and not model.anomalies:
            raise ValueError(f"{name} learns from good images alone: synth.enabled must be false")
        if not model.positionwise and (self.optim.positions < 1 or self.optim.fibre):
            raise ValueError(
                f"{name} trains whole images: optim.positions must be 1, optim.fibre 0"
            )
        if (
            self.optim.fibre
            and isinstance(model, PyramidConfig)
            and "estimated" in (model.variance, model.mean)
        ):
            raise ValueError(
                f"{name} has a statistics head, which would learn from the first of a batch's "
                f"fibres alone, none of it of the coarser levels: optim.fibre {self.optim.fibre} "
                "must be 0; to train fewer positions a step give optim.positions"
            )
        if self.hybrid != HybridConfig() and not model.classifies:
            raise ValueError(f"{name} has no classifier: hybrid and --textures are for cls-cnf")
        given, usual = self.loss, LossConfig()
        for option in fields(LossConfig):
            if option.name not in model.loss_fields and (
                getattr(given, option.name) != getattr(usual, option.name)
            ):
                raise ValueError(
                    f"{name} has no loss.{option.name}; leave it out"
                    + (f", it has {', '.join(model.loss_fields)}" if model.loss_fields else "")
                )

    @property
    def method(self) -> str:
        """The method's name."""
        return self.model.method
