"""Everything a user can choose about a run: model, data, anomalies, loss, optimiser, pretext."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .data.config import DataConfig, SynthConfig
from .model.config import ModelConfig


@dataclass(frozen=True)
class LossConfig:
    """L = L_NLL + bce_weight L_BCE + kl_weight L_KL (methods 2.6)."""

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


@dataclass(frozen=True)
class OptimConfig:
    """Adam with warm-up and cosine decay (methods 1.4)."""

    epochs: int = 80
    """Passes over the training images."""
    sub_epochs: int = 4
    """Passes per meta-epoch: the learning rate is set once per meta-epoch."""
    learning_rate: float = 5e-4
    warmup_meta_epochs: int = 2
    positions: float = 1.0
    """Share of feature positions drawn at random in each step; 1 takes all."""
    updates: int = 1
    """Steps per batch, each with its own positions and noise. The first trains flows and head, the
    others the flows alone: the extractor and the head, which cost most, run once."""
    feature_noise: float = 0.0
    """Deviation of the Gaussian noise added to the features: regularises; for scaled features."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0
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


@dataclass(frozen=True)
class RunConfig:
    """Everything a user can choose about a run; stored in it unchanged."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    synth: SynthConfig = field(default_factory=SynthConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pretext: PretextConfig = field(default_factory=PretextConfig)
    weights: str = "imagenet"
    """`imagenet` (torchvision's download), `none` (taught on the good images), or a file."""
