"""Regions of an exported graph, and the precision of each: a node's name says where it belongs.

Precision is chosen for regions, never for nodes one at a time: the border between two regions is
where values are converted, and each region is a part of the model that a person can name. Couplings
and the likelihood are always FP32: exp, tanh and sums over channels overflow or lose the nats that
a verdict rests on in half precision (docs/precision.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from ..errors import InputError

Precision = Literal["fp32", "fp16", "bf16", "int8"]
MOVES = frozenset(
    {"Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that compute nothing: they have the type of what they move, whatever their region."""

_STAGE = re.compile(r"/?features/stages\.(\d+)/")
_LEVEL = re.compile(r"/?levels\.(\d+)/(?:blocks\.\d+/(first|last)/)?")
_ROOMS = {
    "pixels": "input",
    "extractor": "extractor",
    "features": "features",
    "head": "head",
    "mean_head": "head",
    "classifier": "head",
}


def region_of(node_name: str) -> str:
    """The region of a node, from its name's scope; what has none is the likelihood.

    `/levels.0/blocks.3/first/Conv` is `level1.first`: levels count from 1, fine to coarse, then
    pools. What leads to the first tap is `extractor1`, from there to the second `extractor2`; an
    extractor that is traced as it was trained is one region. Nodes that passes add are named under
    the node they serve and so stay with it.
    """
    if stage := _STAGE.match(node_name):
        return f"extractor{int(stage[1]) + 1}"
    if level := _LEVEL.match(node_name):
        return f"level{int(level[1]) + 1}.{level[2] or 'coupling'}"
    return _ROOMS.get(node_name.lstrip("/").split("/")[0], "likelihood")


def regions_of(graph: onnx.ModelProto) -> tuple[str, ...]:
    """The graph's regions, in the order of their first nodes."""
    return tuple(dict.fromkeys(region_of(node.name) for node in graph.graph.node))


@dataclass(frozen=True)
class Plan:
    """The precision of every region of one graph."""

    regions: Mapping[str, Precision]

    def __post_init__(self) -> None:
        for region, precision in self.regions.items():
            if precision not in _allowed(region):
                raise InputError(
                    f"region {region} in {precision}: expected {' or '.join(_allowed(region))}; "
                    "leave this region higher"
                )
        if {"fp16", "bf16"} <= set(self.regions.values()):
            raise InputError(
                "a plan has fp16 and bf16 regions: bf16 is the engine's choice for all that is "
                "fp32 in the graph, so use one of them"
            )

    @classmethod
    def uniform(cls, graph: onnx.ModelProto, precision: Precision) -> Plan:
        """The safe policy for a precision: what may be that low is, the flow's GEMMs not in fp16.

        fp16: extractor and head. int8 and bf16: also both subnet layers of every block.
        """
        regions = regions_of(graph)
        low = {r for r in regions if precision in _allowed(r)}
        if precision == "fp16":
            low = {r for r in low if _extracts(r) or r == "head"}
        return cls({r: precision if r in low else "fp32" for r in regions})

    @classmethod
    def device(cls, graph: onnx.ModelProto, precision: Precision, *, flows: bool = False) -> Plan:
        """The policy for a GPU, which has FP16 everywhere: around int8, too.

        int8: the extractor, the head stays FP16. `flows` lowers the flows' products as well;
        without it everything from the first coupling on is FP32.
        """
        if precision == "fp32":
            return cls.uniform(graph, "fp32")
        products = [r for r in regions_of(graph) if flows and r.endswith((".first", ".last"))]
        lowered = [*filter(_extracts, regions_of(graph)), *products]
        return cls.uniform(graph, "fp16").changed(dict.fromkeys(lowered, precision))

    def of(self, region: str) -> Precision:
        """The precision of a region; InputError if the graph the plan was made for had none."""
        if region not in self.regions:
            raise InputError(f"no region {region!r} in this plan, only {', '.join(self.regions)}")
        return self.regions[region]

    def changed(self, regions: Mapping[str, Precision]) -> Plan:
        """This plan with other precisions for some of its regions."""
        for region in regions:
            self.of(region)
        return Plan({**self.regions, **regions})


def _extracts(region: str) -> bool:
    return region.startswith("extractor")


def _allowed(region: str) -> tuple[Precision, ...]:
    if region == "head" or _extracts(region) or region.endswith((".first", ".last")):
        return ("fp32", "fp16", "bf16", "int8")
    return ("fp32",)
