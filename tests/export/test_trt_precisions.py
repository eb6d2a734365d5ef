"""Every method in every precision, as a tensorrt bundle has it, is a plan to NVIDIA's builder."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sanflow.calibration.ranges import observe
from sanflow.errors import EngineError
from sanflow.export import nvidia
from sanflow.export.compile import compile_model
from sanflow.export.graph import to_onnx
from sanflow.export.plan import Plan
from sanflow.export.quantise import tensors
from sanflow.export.typed import typed
from sanflow.model.methods import METHODS, build
from sanflow.runtime.engine import TensorSpec

from .conftest import noise, small_model

pytest.importorskip(
    "tensorrt_rtx", reason="NVIDIA's builder is not installed: pip install tensorrt-rtx-cu13"
)
pytestmark = pytest.mark.trt_builder

FAST = {("sanflow", "int8")}
CASES = [
    pytest.param(method, precision, marks=() if (method, precision) in FAST else pytest.mark.slow)
    for method in METHODS
    for precision in ("fp32", "fp16", "int8")
]


def model_of(method: str) -> Any:
    """A small untrained model on a convolutional extractor."""
    if method in ("sanflow", "cflow", "cflow-sp", "fastflow", "fastflow-sp"):
        return small_model(method, width=64)
    options: dict[str, Any] = {"extractor": "resnet18", "height": 96, "width": 96}
    options |= {"blocks": 2, "position_dim": 16} if method == "cls-cnf" else {"couplings": 2}
    return build(METHODS[method][0](method=method, **options)).eval()  # type: ignore[arg-type]


def device_graph(method: str, precision: Any, *, flows: bool = False) -> onnx.ModelProto:
    """The graph of a precision, by the policy for GPUs."""
    model = model_of(method)
    images = [np.asarray(image) for image in noise(4, model).numpy()]
    with torch.no_grad():
        graph = to_onnx(compile_model(model).model)
    wanted = tensors(graph, Plan.uniform(graph, "int8")) if precision == "int8" else ()
    ranges = observe(graph, images, wanted, "mse") if wanted else None
    return typed(graph, Plan.device(graph, precision, flows=flows), ranges, "int8", "fp16")


def specs(graph: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    dtypes = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}
    return tuple(
        TensorSpec(
            info.name,
            dtypes[info.type.tensor_type.elem_type],
            tuple(d.dim_value for d in info.type.tensor_type.shape.dim),
        )
        for info in (*graph.graph.input, *graph.graph.output)
    )


@pytest.mark.parametrize(("method", "precision"), CASES)
def test_every_method_in_every_precision_is_built(method: str, precision: str) -> None:
    graph = device_graph(method, precision)
    found = nvidia.build_plan(graph.SerializeToString(), precision, specs(graph))
    assert found.plan_bytes > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_flows_in_lower_precision_are_built(precision: str) -> None:
    graph = device_graph("sanflow", precision, flows=True)
    assert nvidia.build_plan(graph.SerializeToString(), precision, specs(graph)).plan_bytes > 1e6


def test_the_builder_refuses_what_the_linter_refuses() -> None:
    """A zero point other than 0: the rule is NVIDIA's, and so is the message."""
    graph = device_graph("sanflow", "int8")
    name = next(n.input[2] for n in graph.graph.node if n.op_type == "QuantizeLinear")
    tensor = next(t for t in graph.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(3, np.int8), name))
    with pytest.raises(EngineError, match=r"refuses the int8 graph: .*[Zz]ero point"):
        nvidia.build_plan(graph.SerializeToString(), "int8", specs(graph))
