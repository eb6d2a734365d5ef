"""Named configurations of the methods that judge an image as a whole."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ..config import OptimConfig, RunConfig
from ..model.token_config import FoadMfffConfig, SanfAdConfig
from .recipes import Recipe, good_only

OPTIM = OptimConfig(
    epochs=60,
    sub_epochs=1,
    learning_rate=5e-5,
    warmup_meta_epochs=0,
    decay="none",
    betas=(0.8, 0.8),
    epsilon=1e-4,
    weight_decay=1e-5,
)
"""Adam as published (methods 5); for how many epochs is not."""
SMALL: dict[str, Any] = {
    "extractor": "resnet18",
    "height": 192,
    "width": 192,
    "feature_scale": "standard",
}
SMALL_OPTIM = replace(OPTIM, epochs=20)
"""More steps, or larger ones, lose what few images gain: measured on one class of CIFAR-10."""


def sanf_ad(**model: Any) -> RunConfig:
    """SANF-AD with four couplings on ViT-B/16 at 384 pixels."""
    return RunConfig(model=SanfAdConfig(**model), synth=good_only(32), optim=OPTIM)


def foad_mfff(**model: Any) -> RunConfig:
    """FOAD-MFFF, otherwise as SANF-AD."""
    return RunConfig(model=FoadMfffConfig(**model), synth=good_only(32), optim=OPTIM)


def _edge(recipe: Recipe) -> RunConfig:
    """On the map of a small convolutional extractor, for fewer passes."""
    return replace(recipe(), optim=SMALL_OPTIM)


TOKENS: dict[str, Recipe] = {
    "sanf-ad": sanf_ad,
    "sanf-ad-two": partial(sanf_ad, couplings=2),
    "sanf-ad-large": partial(sanf_ad, extractor="vit_l_16"),
    "sanf-ad-compat": partial(sanf_ad, layout="compat"),
    "sanf-ad-edge": partial(_edge, partial(sanf_ad, **SMALL)),
    "foad-mfff": foad_mfff,
    "foad-mfff-large": partial(foad_mfff, extractor="vit_l_16"),
    "foad-mfff-edge": partial(_edge, partial(foad_mfff, **SMALL)),
}
