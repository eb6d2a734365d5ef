"""Named configurations of the flow methods: as published, on a small PC, and table 2.12's rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..config import OptimConfig, RunConfig
from ..data.config import SynthConfig
from ..model.config import SanflowConfig
from ..model.flow_config import CflowConfig, FastflowConfig

Recipe = Callable[[], RunConfig]

CATEGORY_SIZES = {
    "bottle": 512,
    "cable": 256,
    "capsule": 256,
    "carpet": 512,
    "grid": 512,
    "hazelnut": 256,
    "leather": 512,
    "metal_nut": 256,
    "pill": 256,
    "screw": 512,
    "tile": 512,
    "toothbrush": 512,
    "transistor": 128,
    "wood": 512,
    "zipper": 512,
}
"""Input of CFLOW-AD's published figures per category of MVTec AD (methods 3)."""

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "1a": ({"variance": "unit"}, {"bce_weight": 0.0, "kl_weight": 0.0}, False),
    "1b": ({}, {"bce_weight": 0.0, "kl_weight": 0.0}, True),
    "1c": ({}, {"kl_weight": 0.0}, True),
    "1d": ({}, {"bce_weight": 0.0}, True),
    "2a": ({}, {"bce_weight": 0.0}, False),
    "3a": ({"variance": "fixed"}, {}, True),
    "3b": ({"variance": "fixed", "mean": "estimated"}, {}, True),
    "3c": ({"mean": "estimated"}, {}, True),
    "margin-0.5": ({"mean_margin": 0.5}, {}, True),
    "margin-1.5": ({"mean_margin": 1.5}, {}, True),
}
"""SANFlow's ablation (methods 2.12): what of model and loss differs, and whether there are
synthetic anomalies. The margin 1.0 is SANFlow itself."""

SMALL_MODEL: dict[str, Any] = {
    "extractor": "resnet18",
    "taps": (8, 16),
    "pools": (1,),
    "feature_scale": "standard",
    "head_width": 8,
}
SMALL_OPTIM = OptimConfig(
    epochs=12,
    sub_epochs=1,
    learning_rate=1e-3,
    warmup_meta_epochs=1,
    positions=0.25,
    updates=4,
    feature_noise=0.1,
)
"""Small enough to train and run on a 2-core PC; chosen in benchmarks/ablation.py."""


def edge(pools: tuple[int, ...] = SMALL_MODEL["pools"]) -> RunConfig:
    """SANFlow on a small PC. `edge-local` sees its taps together, cell by cell of the coarser one,
    instead of the part as a whole: for defects that are local."""
    return RunConfig(
        model=SanflowConfig(**{**SMALL_MODEL, "pools": pools}, position_dim=64),
        # Mostly good parts: the pooled level sees a part with an anomaly as a whole abnormal one.
        synth=SynthConfig(quotas=(5, 1, 1, 1)),
        optim=SMALL_OPTIM,
    )


def ablation(name: str, base: Recipe = RunConfig) -> RunConfig:
    """A row of table 2.12, or a margin, of the configuration that `base` gives."""
    model, loss, anomalies = ROWS[name]
    config = base()
    synth = config.synth if anomalies else good_only(sum(config.synth.quotas))
    return replace(
        config,
        model=replace(config.model, **model),
        loss=replace(config.loss, **loss),
        synth=synth,
    )


def good_only(batch: int) -> SynthConfig:
    """Batches of good images alone."""
    return SynthConfig(enabled=False, quotas=(batch, 0, 0, 0))


def cflow(extractor: str = "wide_resnet50_2", size: int = 256, **changes: Any) -> RunConfig:
    """CFLOW-AD as its code trains it: 25 meta-epochs of 8, fibres of 256 vectors."""
    return RunConfig(
        model=CflowConfig(extractor=extractor, height=size, width=size, **changes),
        synth=replace(good_only(32), turn=5.0),
        optim=OptimConfig(epochs=200, sub_epochs=8, learning_rate=2e-4, fibre=256),
    )


def cflow_sp() -> RunConfig:
    """CFLOW+SP: SANFlow's schedule and all positions in one step, without its anomalies."""
    return RunConfig(model=CflowConfig(method="cflow-sp"), synth=good_only(8))


def cflow_edge(sp: bool = False) -> RunConfig:
    """CFLOW-AD beside SANFlow's preset `edge`: the same extractor, levels and steps."""
    method: Any = "cflow-sp" if sp else "cflow"
    return RunConfig(
        model=CflowConfig(method=method, **SMALL_MODEL, position_dim=64),
        synth=good_only(8),
        optim=SMALL_OPTIM,
    )


def fastflow(extractor: str = "wide_resnet50_2", sp: bool = False) -> RunConfig:
    """FastFlow as published; with a statistics head at a fifth of the learning rate."""
    return RunConfig(
        model=FastflowConfig(
            method="fastflow-sp" if sp else "fastflow",
            extractor=extractor,
            conv3x3_only=extractor == "resnet18",
        ),
        synth=good_only(32),
        optim=OptimConfig(
            epochs=500,
            sub_epochs=1,
            learning_rate=2e-4 if sp else 1e-3,
            warmup_meta_epochs=0,
            decay="none",
            weight_decay=1e-5,
        ),
    )


def fastflow_transformer(extractor: str, size: int) -> RunConfig:
    """FastFlow on a transformer's one map of patch tokens: 20 narrow blocks."""
    config = fastflow()
    model = FastflowConfig(
        extractor=extractor,
        taps=(16,),
        height=size,
        width=size,
        blocks=20,
        hidden_ratio=0.16,
        layer_norm=False,
    )
    return replace(config, model=model)


def fastflow_edge(sp: bool = False) -> RunConfig:
    """FastFlow on the two tapped levels of SANFlow's preset `edge`, whole images a step."""
    model = {**SMALL_MODEL, "pools": (), "feature_scale": "none"}
    return RunConfig(
        model=FastflowConfig(
            method="fastflow-sp" if sp else "fastflow", **model, conv3x3_only=True
        ),
        synth=good_only(8),
        optim=OptimConfig(
            epochs=12,
            sub_epochs=1,
            learning_rate=2e-4 if sp else 1e-3,
            warmup_meta_epochs=1,
            weight_decay=1e-5,
        ),
    )


SANFLOW: dict[str, Recipe] = {
    "edge": edge,
    "edge-local": partial(edge, pools=(16,)),
    **{name: partial(ablation, name) for name in ROWS},
    **{f"edge-{name}": partial(ablation, name, edge) for name in ROWS},
}
CFLOW: dict[str, Recipe] = {
    "cflow": cflow,
    "cflow-edge": cflow_edge,
    "cflow-resnet18": partial(cflow, "resnet18"),
    "cflow-mobilenet": partial(cflow, "mobilenet_v3_large"),
    "cflow-unconditional": partial(cflow, position_dim=0),
    **{f"cflow-{category}": partial(cflow, size=n) for category, n in CATEGORY_SIZES.items()},
    "cflow-sp": cflow_sp,
    "cflow-sp-edge": partial(cflow_edge, sp=True),
}
FASTFLOW: dict[str, Recipe] = {
    "fastflow": fastflow,
    "fastflow-edge": fastflow_edge,
    "fastflow-resnet18": partial(fastflow, "resnet18"),
    "fastflow-deit": partial(fastflow_transformer, "deit_base_distilled_patch16_384", 384),
    "fastflow-cait": partial(fastflow_transformer, "cait_m48_448", 448),
    "fastflow-sp": partial(fastflow, sp=True),
    "fastflow-sp-edge": partial(fastflow_edge, sp=True),
}
