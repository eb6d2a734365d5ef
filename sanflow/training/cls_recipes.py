"""Named configurations of CLS-CNF: its published ones per category, and one for a small PC."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ..config import HybridConfig, OptimConfig, RunConfig
from ..data.config import TextureConfig
from ..data.foreground import Foreground
from ..model.cls_config import ClsCnfConfig
from .recipes import SMALL_MODEL, SMALL_OPTIM, Recipe, good_only

# Published counts are meta-epochs of a frozen and of a learning extractor, sub-epochs of each, and
# how often a sub-epoch repeats the training images.
_STAGES: dict[str, dict[str, Any]] = {
    "cable": {"learning_rate": 5e-5, "batch": 16, "sub": 1},
    "capsule": {"learning_rate": 5e-4, "repeat": 2},
    "metal_nut": {"batch": 16, "frozen": 80, "joint": 20},
    "pill": {"batch": 16, "sub": 1},
    "screw": {"learning_rate": 5e-4, "batch": 16, "frozen": 35, "joint": 5, "sub": 1},
    "toothbrush": {"batch": 16},
    "transistor": {"batch": 16, "frozen": 70, "joint": 30},
    "zipper": {"batch": 16, "frozen": 80, "joint": 20},
    "btad-01": {"batch": 16, "frozen": 7, "joint": 1, "sub": 4, "weight_decay": 5e-4},
    "btad-02": {"batch": 16, "frozen": 7, "joint": 1, "sub": 5, "repeat": 3},
    "btad-03": {
        "batch": 16,
        "frozen": 8,
        "joint": 2,
        "sub": 6,
        "repeat": 2,
        "weight_decay": 5e-4,
    },
}
_BRIGHT = {"cable", "hazelnut", "metal_nut", "pill", "toothbrush", "btad-01", "btad-03"}
_EVERYWHERE = {"transistor", "tile", "wood", "carpet", "leather", "btad-02"}
_HOLES_KEPT = {"grid", "metal_nut", "btad-01"}
_FLOW_RATES = {"btad-01": 5e-5, "btad-02": 2e-5, "btad-03": 1e-4}
CATEGORIES = (
    *"bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile".split(),
    *"toothbrush transistor wood zipper btad-01 btad-02 btad-03".split(),
)

FLOWS = OptimConfig(epochs=200, sub_epochs=8, learning_rate=2e-4, fibre=256)
"""CFLOW's training, which the flows keep (methods 7)."""


def cls_cnf(extractor: str = "wide_resnet50_2") -> RunConfig:
    """CLS-CNF as published for most categories, defects of the parts' own content."""
    return RunConfig(
        model=ClsCnfConfig(extractor=extractor),
        synth=good_only(32),
        optim=FLOWS,
        hybrid=stage(),
    )


def cls_cnf_category(category: str) -> RunConfig:
    """With the settings published for a category of MVTec AD or BTAD (methods 7)."""
    ground: Foreground = "bright" if category in _BRIGHT else "dark"
    textures = TextureConfig(
        foreground="all" if category in _EVERYWHERE else ground,
        fill_holes=category not in _HOLES_KEPT,
    )
    made = replace(cls_cnf(), hybrid=replace(stage(**_STAGES.get(category, {})), textures=textures))
    if category not in _FLOW_RATES:
        return made
    flows = OptimConfig(
        epochs=48, sub_epochs=6, learning_rate=_FLOW_RATES[category], fibre=FLOWS.fibre
    )
    return replace(made, optim=flows)


def cls_cnf_edge() -> RunConfig:
    """On the levels of SANFlow's preset `edge`, without its pooled one."""
    model = {**SMALL_MODEL, "pools": ()}
    del model["head_width"]
    return RunConfig(
        model=ClsCnfConfig(**model, position_dim=64),
        synth=good_only(8),
        optim=SMALL_OPTIM,
        hybrid=HybridConfig(
            warmup_epochs=4, joint_epochs=4, sub_epochs=1, learning_rate=3e-4, batch=8
        ),
    )


def stage(
    frozen: int = 85,
    joint: int = 15,
    sub: int = 2,
    repeat: int = 5,
    *,
    learning_rate: float = 1e-4,
    batch: int = 32,
    weight_decay: float = 1e-4,
) -> HybridConfig:
    """The classifier's training, in the counts that were published."""
    return HybridConfig(
        warmup_epochs=frozen * sub * repeat,
        joint_epochs=joint * sub * repeat,
        sub_epochs=sub * repeat,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch=batch,
    )


CLS_CNF: dict[str, Recipe] = {
    "cls-cnf": cls_cnf,
    "cls-cnf-edge": cls_cnf_edge,
    "cls-cnf-resnet18": partial(cls_cnf, "resnet18"),
    **{f"cls-cnf-{category}": partial(cls_cnf_category, category) for category in CATEGORIES},
}
