"""Each fault that TensorRT refuses or misreads is found in the bytes alone, with its node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sanflow.runtime.doctor.lint import problems, read

from ..conftest import network

node = helper.make_node


def model(*nodes: onnx.NodeProto, opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """A graph of these nodes; nobody runs it."""
    made = helper.make_graph(
        list(nodes),
        "sanflow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])


def found(given: onnx.ModelProto, tensorrt: bool = True) -> list[str]:
    return list(problems(read(given.SerializeToString()), tensorrt))


def coded(**changes: Any) -> onnx.ModelProto:
    """x through QuantizeLinear and DequantizeLinear."""
    values = {"scale": np.float32([0.1, 0.2]), "zero": np.zeros(2, np.int8), **changes}
    names = [name for name, value in values.items() if value is not None]
    return model(
        node("QuantizeLinear", ["x", *names], ["q"], "quantise", axis=1),
        node("DequantizeLinear", ["q", *names], ["y"], "dequantise", axis=1),
        **{name: values[name] for name in names},
    )


def test_what_is_read_is_what_onnx_reads() -> None:
    given = network()
    graph = read(given.SerializeToString())
    assert [(n.op, n.name, n.inputs) for n in graph.nodes] == [
        (n.op_type, n.name, tuple(n.input)) for n in given.graph.node
    ]
    assert graph.opset == given.opset_import[0].version
    for tensor in given.graph.initializer:
        np.testing.assert_array_equal(
            graph.constants[tensor.name].values, numpy_helper.to_array(tensor).reshape(-1)
        )
    assert graph.nodes[0].numbers == {"to": TensorProto.FLOAT}


@pytest.mark.parametrize("opset", [13, 17, 19])
def test_a_good_graph_has_no_problem(opset: int) -> None:
    good = coded()
    good.opset_import[0].version = opset
    assert found(good) == []
    half = coded(scale=np.float16([0.1, 0.2]))
    assert found(half) == []


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        (coded(zero=np.zeros(2, np.uint8)), "quantise: its zero point must be a constant of int8"),
        (coded(zero=None), "quantise: its zero point must be a constant of int8"),
        (coded(zero=np.int8([0, 3])), "quantise: its zero point must be 0"),
        (coded(scale=np.float32([0.1, 0.0])), "quantise: its scale must be a constant above 0"),
        (coded(scale=np.float32([0.1, -1])), "quantise: its scale"),
        (coded(scale=np.float32([0.1, np.inf])), "scale: not all of its values are finite"),
        (
            model(
                node("DequantizeLinear", ["b", "s", "z"], ["y"], "bias"),
                b=np.int32([1, 2]),
                s=np.float32(1),
                z=np.int8(0),
            ),
            "DequantizeLinear bias: TensorRT dequantises no int32",
        ),
        (model(node("TopK", ["x", "k"], ["y", "i"], "top"), k=np.int64([3841])), "TopK top: K"),
        (model(node("TopK", ["x", "k"], ["y", "i"], "top")), "TopK top: K must be a constant"),
        (model(node("Resize", ["x"], ["y"], "up", antialias=1)), "Resize up: "),
        (model(node("NonZero", ["x"], ["y"], "where")), "NonZero where: TensorRT does not know"),
        (model(node("QLinearConv", ["x"], ["y"], "conv")), "QLinearConv conv: TensorRT does not"),
        (model(node("Neg", ["x"], ["y"]), opset=20), "opset 20, expected 13 to 19"),
        (model(node("Neg", ["x"], ["y"]), w=np.float32([1, np.nan])), "w: not all of its values"),
        (model(node("Neg", ["x"], ["y"]), w=np.float16([np.inf])), "w: not all of its values"),
    ],
)
def test_a_planted_fault_is_found(faulty: onnx.ModelProto, words: str) -> None:
    assert any(words in problem for problem in found(faulty)), found(faulty)


def test_a_constant_or_attribute_without_a_name_is_no_crash() -> None:
    made = model(node("TopK", ["x", "k"], ["y", "i"], "top", axis=1), k=np.int64([3841]))
    made.graph.initializer[0].ClearField("name")
    made.graph.node[0].attribute[0].ClearField("name")
    assert "TopK top: K must be a constant" in found(made)[0]


def test_what_only_tensorrt_refuses_is_no_fault_elsewhere() -> None:
    assert found(coded(zero=np.zeros(2, np.uint8)), tensorrt=False) == []
    top = model(node("TopK", ["x", "k"], ["y", "i"], "top"), k=np.int64([3840]))
    assert found(top) == []
