"""The compiled model in FP32 is the trained one, its regions are named, its cost is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sanflow.export.compile import compile_model
from sanflow.export.graph import to_onnx
from sanflow.export.macs import macs, stored_values
from sanflow.export.naive import naive
from sanflow.export.plan import regions_of
from sanflow.model.config import EXTRACTORS, SanflowConfig
from sanflow.model.sanflow import SANFlow

from .conftest import noise, small_model

torch.set_num_threads(1)

HEAVY = ("resnet34", "resnet50", "wide_resnet50_2", "wide_resnet101_2")
FAMILIES = [
    pytest.param(
        {"extractor": name, "feature_scale": "standard"},  # random weights: maps of any size
        marks=[pytest.mark.slow] if name in HEAVY else [],
    )
    for name in EXTRACTORS
]


@pytest.mark.parametrize(
    "changes",
    [
        *FAMILIES,
        {"padding": "zeros", "feature_scale": "standard", "pools": (2, 1), "smooth": 3},
        {"fusion": "log_likelihood", "mean": "estimated", "image_score": "top"},
    ],
    ids=lambda c: " ".join(map(str, c.values())),
)
def test_fp32_scores_are_the_trained_models(changes: dict[str, Any]) -> None:
    model = small_model(**{"height": 64, "width": 64, "taps": (8, 16), **changes})
    images = noise(3, model, seed=1)
    model.fit_feature_scale([images])
    model.fit_level_max([images])  # or exp(l - m) of an untrained model is beyond comparison
    compiled = compile_model(model).model
    with torch.no_grad():
        score, heat = model(images)
        mine_score, mine_heat = compiled(images)
    torch.testing.assert_close(mine_score, score, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine_heat, heat, rtol=1e-4, atol=1e-4)


def test_every_region_is_named() -> None:
    graph = to_onnx(small_model(height=64, width=64, pools=(1,), blocks=1))
    levels = [f"level{k}.{part}" for k in (1, 2, 3) for part in ("coupling", "first", "last")]
    stages = ("extractor1", "extractor2", "features")
    assert set(regions_of(graph)) == {"input", *stages, "head", "likelihood", *levels}
    # What is multiplied in the flow belongs to the subnets; the rest of a level moves and adds.
    for node in graph.graph.node:
        if node.name.startswith("/levels") and node.op_type == "Conv":
            assert "/first/" in node.name or "/last/" in node.name


def test_macs_of_a_flow_by_hand() -> None:
    """A block costs P (P+D) h + ... before, and P h + h 2A after folding, h = 2 (P + D)."""
    model = small_model(height=64, width=64, taps=(8,), variance="unit", blocks=2)
    positions, passive, active, dim = 8 * 8, 64, 64, 16
    hidden = 2 * (passive + dim)
    before = (passive + dim) * hidden + hidden * 2 * active + (passive + active) ** 2
    after = passive * hidden + hidden * 2 * active
    means = positions * (2 * active + active)
    enlarging = 64 * 8 * 8 + 64 * 8 * 64
    compiled = compile_model(model)
    saved = macs(naive(model)) - macs(compiled.model)
    assert saved == 2 * positions * (before - after) - means - enlarging
    names = [record.name for record in compiled.passes]
    assert names[:3] == ["pointwise", "fold condition", "gather permutations"]
    for record, following in zip(compiled.passes, compiled.passes[1:], strict=False):
        assert (record.macs_after, record.values_after) == (
            following.macs_before,
            following.values_before,
        )
    assert compiled.passes[-1].values_after == stored_values(compiled.model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extractor", "naive_gmac", "strided_gmac"),
    [
        ("wide_resnet50_2", 59.098, 43.185),
        ("resnet18", 2.369 + 10.402 + 7.437, 2.369 + 3.423 + 7.362),
        ("mobilenet_v3_large", 0.269 + 7.076 + 7.437, 0.269 + 1.059 + 7.362),
    ],
)
def test_savings_are_those_of_the_method_notes(
    extractor: str, naive_gmac: float, strided_gmac: float
) -> None:
    """Table 9.13 with the head at stride 8; in windows it costs 3.37 (methods 9.10: 3.28), and
    enlarging as matrices 0.004.

    The notes count windows alone; here the first row of positions is a strip of the whole width.
    """
    compiled = compile_model(SANFlow(SanflowConfig(extractor=extractor)))
    assert compiled.passes[0].macs_before / 1e9 == pytest.approx(naive_gmac, abs=2e-3)
    assert compiled.passes[-1].macs_after / 1e9 == pytest.approx(
        strided_gmac - 7.362 + 3.370 + 0.004, abs=3e-3
    )
