"""A node's name says its region; a plan gives every region a precision that it may have."""

from __future__ import annotations

import pytest
from onnx import helper

from sanflow.errors import InputError
from sanflow.export.plan import Plan, region_of, regions_of

NAMES = (
    "/pixels/Cast",
    "/features/stages.0/blocks.layer1/blocks.layer1.0/conv1/Conv",
    "/features/AveragePool",
    "/levels.0/Slice",
    "/levels.0/blocks.0/first/Conv",
    "/levels.0/blocks.0/first/Relu",
    "/levels.0/blocks.0/last/Conv",
    "/levels.0/blocks.0/Tanh",
    "/levels.0/blocks.1/first/Conv",
    "/head/middle/Conv",
    "/Exp",
)
GRAPH = helper.make_model(
    helper.make_graph([helper.make_node("Neg", ["x"], [n], n) for n in NAMES], "g", [], [])
)


@pytest.mark.parametrize(
    ("name", "region"),
    [
        ("/pixels/Cast", "input"),
        ("pixels/Cast", "input"),
        ("/extractor/layer1/Conv", "extractor"),
        ("/features/stages.0/layer1/Conv", "extractor1"),
        ("features/stages.10/layer1/Conv", "extractor11"),
        ("/features/AveragePool", "features"),
        ("/extractor/levels.0/Conv", "extractor"),
        ("/head/middle/middle.0/Conv", "head"),
        ("/mean_head/last/Conv", "head"),
        ("/header/Conv", "likelihood"),
        ("/levels.0/blocks.3/first/Conv", "level1.first"),
        ("/levels.0/blocks.3/first/Conv/quantise", "level1.first"),
        ("/levels.11/blocks.0/last/Conv", "level12.last"),
        ("/levels.1/blocks.0/lasting/Mul", "level2.coupling"),
        ("/levels.1/blocks.0/Tanh", "level2.coupling"),
        ("/levels.1/ReduceMean", "level2.coupling"),
        ("/Resize_2", "likelihood"),
        ("", "likelihood"),
    ],
)
def test_the_name_says_the_region(name: str, region: str) -> None:
    assert region_of(name) == region


def test_regions_come_in_the_order_of_the_graph() -> None:
    assert regions_of(GRAPH) == (
        "input",
        "extractor1",
        "features",
        "level1.coupling",
        "level1.first",
        "level1.last",
        "head",
        "likelihood",
    )


@pytest.mark.parametrize(
    ("precision", "low"),
    [
        ("fp32", set()),
        ("fp16", {"extractor1", "head"}),
        ("int8", {"extractor1", "head", "level1.first", "level1.last"}),
        ("bf16", {"extractor1", "head", "level1.first", "level1.last"}),
    ],
)
def test_the_safe_policy(precision: str, low: set[str]) -> None:
    plan = Plan.uniform(GRAPH, precision)  # type: ignore[arg-type]
    assert tuple(plan.regions) == regions_of(GRAPH)
    for region in plan.regions:
        assert plan.of(region) == (precision if region in low else "fp32")


@pytest.mark.parametrize("region", ["likelihood", "level1.coupling", "input", "features"])
@pytest.mark.parametrize("precision", ["fp16", "int8", "bf16"])
def test_what_must_stay_fp32_cannot_be_planned_otherwise(region: str, precision: str) -> None:
    with pytest.raises(InputError, match=f"region {region} in {precision}: expected fp32"):
        Plan.uniform(GRAPH, "fp32").changed({region: precision})  # type: ignore[dict-item]


def test_a_region_that_is_not_there_is_named() -> None:
    plan = Plan.uniform(GRAPH, "fp32")
    with pytest.raises(InputError, match=r"no region 'level9.first' in this plan, only input, "):
        plan.of("level9.first")
    with pytest.raises(InputError, match=r"no region 'level9.first'"):
        plan.changed({"level9.first": "fp16"})


def test_changes_leave_the_plan_alone() -> None:
    plan = Plan.uniform(GRAPH, "int8")
    changed = plan.changed({"extractor1": "fp16"})
    assert (plan.of("extractor1"), changed.of("extractor1")) == ("int8", "fp16")
    assert changed.of("head") == "int8"


def test_fp16_and_bf16_do_not_mix() -> None:
    with pytest.raises(InputError, match="fp16 and bf16"):
        Plan.uniform(GRAPH, "fp16").changed({"head": "bf16"})
