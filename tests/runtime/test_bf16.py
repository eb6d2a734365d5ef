"""A bf16 graph runs where the processor has bfloat16, and is refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper

from sanflow.errors import EngineError
from sanflow.runtime.registry import open_graph
from sanflow.runtime.setting import Setting

from .conftest import HEIGHT, WIDTH, network, to_ir


def in_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its tanh computed in BF16, between two casts."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Tanh":
            source, made = node.input[0], node.output[0]
            node.input[0], node.output[0] = "low", "rounded"
            down = helper.make_node("Cast", [source], ["low"], "down", to=TensorProto.BFLOAT16)
            up = helper.make_node("Cast", ["rounded"], [made], "up", to=TensorProto.FLOAT)
            nodes += [down, node, up]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def files(tmp_path: Path) -> dict[str, bytes]:
    return to_ir(in_bf16(network()), tmp_path)


class Processor:
    """OpenVINO on a processor with these capabilities."""

    def __init__(self, *capabilities: str) -> None:
        self._core: Any = openvino.Core()
        self._capabilities = list(capabilities)

    def get_property(self, device: str, name: str) -> Any:
        if name == "OPTIMIZATION_CAPABILITIES":
            return self._capabilities
        return "A processor of 2015  "

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def test_without_bfloat16_it_is_refused_with_the_processor_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = files(tmp_path)
    old = Processor("FP32", "INT8")
    monkeypatch.setattr(openvino, "Core", lambda: old)
    reason = r"bf16, which this processor \(A processor of 2015\) does not have; export the run "
    with pytest.raises(EngineError, match=reason):
        open_graph(made, Setting("openvino", 1))


def test_a_float32_bundle_needs_no_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = to_ir(network(), tmp_path)
    old = Processor("FP32")
    monkeypatch.setattr(openvino, "Core", lambda: old)
    open_graph(made, Setting("openvino", 1)).close()


def test_only_what_the_graph_says_is_rounded(tmp_path: Path) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    images = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3)).astype(np.uint8)
    maps = []
    for made in (to_ir(network(), tmp_path), files(tmp_path)):
        with open_graph(made, Setting("openvino", 1)) as engine:
            maps.append(engine.infer(images).map)
    errors = np.abs(maps[1] / maps[0] - 1)
    # Were the sums behind it rounded, too, the exp would be off by more than their last bit.
    assert 0 < errors.max() < 2**-8
