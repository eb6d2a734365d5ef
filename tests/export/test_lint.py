"""What some engine would refuse on the line is refused at export, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sanflow.errors import InputError
from sanflow.export.lint import lint

node = helper.make_node


def model(
    *nodes: onnx.NodeProto,
    shape: tuple[int | str, ...] = (1, 1, 8, 8),
    out: tuple[int | str, ...] | None = None,
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """A graph x -> y with these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "sanflow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out or shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def good() -> onnx.ModelProto:
    return model(node("Add", ["x", "w"], ["y"], "add"), w=np.float32([1]))


def test_a_plain_graph_passes() -> None:
    lint(good())


SIZES = np.array([1, 1, 16, 16])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (model(node("Einsum", ["x"], ["y"], "e", equation="abcd->abdc")), "Einsum 'e' is not an"),
        (model(node("Erf", ["x"], ["y"], "e"), shape=("n", 1, 8, 8)), "Erf 'e' is not an operator"),
        (model(node("Neg", ["x"], ["y"], "n"), shape=("n", 1, 8, 8)), "shape of x is not static"),
        (model(node("Neg", ["x"], ["y"], "")), "node names are not unique"),
        (
            model(node("Neg", ["x"], ["z"], "n"), node("Neg", ["z"], ["y"], "n")),
            "node names are not unique",
        ),
        (
            model(node("Add", ["x", "w"], ["y"], "a"), w=np.float32([np.inf])),
            "w holds values that are not finite",
        ),
        (
            model(
                node("Resize", ["x", "", "", "s"], ["y"], "r", mode="cubic"),
                out=(1, 1, 16, 16),
                s=SIZES,
            ),
            "Resize 'r' is neither linear nor nearest",
        ),
        (
            model(
                node("Flatten", ["x"], ["f"], "f"),
                node("TopK", ["f", "k"], ["y", "i"], "t"),
                shape=(1, 1, 64, 64),
                out=(1, 3841),
                k=np.array([3841]),
            ),
            "TopK 't' takes the 3841 largest values, TensorRT allows 3840",
        ),
        (model(node("Add", ["x", "missing"], ["y"], "a")), "not valid ONNX"),
        (
            model(node("Neg", ["x"], ["y"], "n", domain="com.microsoft")),
            "No opset import for domain",
        ),
    ],
)
def test_each_fault_has_its_own_message(bad: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(InputError, match=rf"exported graph: .*{reason}"):
        lint(bad)


def newer(m: onnx.ModelProto) -> None:
    m.opset_import[0].version = 18


def second(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def elsewhere(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_location = TensorProto.EXTERNAL


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (newer, r"operator sets \[\('', 18\)\], expected only 17"),
        (second, "operator sets"),
        (elsewhere, "w keeps its data in another file"),
    ],
)
def test_the_file_as_a_whole_is_checked(
    spoil: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    bad = good()
    spoil(bad)
    with pytest.raises(InputError, match=reason):
        lint(bad)


def test_uint8_is_converted_first() -> None:
    """TensorRT transposes, slices and multiplies no uint8."""
    graph = helper.make_graph(
        [
            node("Transpose", ["x"], ["t"], "transpose", perm=[0, 3, 1, 2]),
            node("Cast", ["t"], ["y"], "cast", to=TensorProto.FLOAT),
        ],
        "sanflow",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    bad = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(InputError, match="'transpose' works on uint8; only Cast may"):
        lint(bad)
