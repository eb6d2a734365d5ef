"""What some engine would refuse on the line is refused at export, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sanflow.errors import InputError
from sanflow.export import lint as module
from sanflow.export.lint import check_interface, lint

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
        *(
            (model(node(kind, ["x"], ["y"], "n")), f"{kind} 'n' is not an operator that all")
            for kind in ("NonZero", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear", "Log")
        ),
        (model(node("Neg", ["x"], ["y"], "n"), shape=("n", 1, 8, 8)), "shape of x is not static"),
        (model(node("Neg", ["x"], ["y"], "")), "node names are not unique: ''; name"),
        (
            model(node("Neg", ["x"], ["z"], "n"), node("Neg", ["z"], ["y"], "n")),
            "node names are not unique: 'n'; name",
        ),
        (
            model(node("Neg", ["x"], ["y"], "n"), node("Exp", ["x"], ["y"], "e")),
            "value names are not unique: 'y'; name",
        ),
        (
            model(node("Add", ["x", "x"], ["y"], "n"), x=np.float32([1])),
            "value names are not unique: 'x'; name",
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
            "Resize 'r' is neither linear nor nearest, as TensorRT 10 needs it",
        ),
        (
            model(
                node("Resize", ["x", "", "", "s"], ["y"], "r", mode="linear", antialias=1),
                out=(1, 1, 4, 4),
                s=np.array([1, 1, 4, 4]),
            ),
            "Resize 'r' is antialiased, which TensorRT has not",
        ),
        (
            model(
                node(
                    "Resize",
                    ["x", "", "", "s"],
                    ["y"],
                    "r",
                    mode="linear",
                    coordinate_transformation_mode="tf_crop_and_resize",
                ),
                out=(1, 1, 16, 16),
                s=SIZES,
            ),
            "Resize 'r' has the coordinates tf_crop_and_resize, expected align_corners",
        ),
        (
            model(
                node("Pad", ["x", "p"], ["y"], "p", mode="edge"),
                out=(1, 1, 10, 10),
                p=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            ),
            "Pad 'p' pads by edge, TensorRT by constant or reflect",
        ),
        (
            model(
                node("Flatten", ["x"], ["f"], "f"),
                node("Cast", ["x"], ["k"], "c", to=TensorProto.INT64),
                node("TopK", ["f", "k"], ["y", "i"], "t"),
            ),
            "TopK 't' computes how many values it takes",
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
            "Neg 'n' is of the domain com.microsoft, which only its own engine has; never save",
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


def later(m: onnx.ModelProto) -> None:
    m.ir_version = 13


def elsewhere(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_location = TensorProto.EXTERNAL


def doubled(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (newer, r"operator sets \[\('', 18\)\], expected only 17"),
        (second, "operator sets"),
        (later, "file version 13, expected 8, the oldest that may hold operator set 17"),
        (elsewhere, "w keeps its data in another file; store it inside"),
        (doubled, "value names are not unique: 'w'"),
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


def test_a_file_that_protobuf_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", good().ByteSize() - 1)
    with pytest.raises(InputError, match=r"\d+ bytes, the limit is \d+; use a smaller extractor"):
        lint(good())


def shipped() -> onnx.ModelProto:
    """The least that has a bundle's inputs and outputs."""
    nodes = [
        node("Cast", ["image"], ["f"], "cast", to=TensorProto.FLOAT),
        node("ReduceMax", ["f"], ["map"], "map", axes=[3], keepdims=0),
        node("ReduceMax", ["map"], ["score"], "score", axes=[1, 2], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "sanflow",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [2, 8, 6, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [2, 8, 6]),
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def renamed(m: onnx.ModelProto) -> None:
    m.graph.output[0].name = "scores"


def swapped(m: onnx.ModelProto) -> None:
    m.graph.output.reverse()


def empty(m: onnx.ModelProto) -> None:
    del m.graph.output[:]


def floats_in(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def halves_out(m: onnx.ModelProto) -> None:
    m.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16


def planes(m: onnx.ModelProto) -> None:
    m.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("image", TensorProto.UINT8, [2, 3, 8, 6])
    )


def any_batch(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (renamed, r"outputs are scores FLOAT \(2\), map .* expected score FLOAT \(2\), map"),
        (swapped, r"outputs are map .* expected score"),
        (empty, "outputs are none, expected score"),
        (floats_in, r"inputs are image FLOAT \(2, 8, 6, 3\), expected image UINT8"),
        (halves_out, "map FLOAT16"),
        (planes, r"inputs are image UINT8 \(2, 3, 8, 6\), expected image UINT8 \(2, 3, 8, 3\)"),
        (any_batch, r"inputs are image UINT8 \(n, 8, 6, 3\)"),
    ],
)
def test_inputs_and_outputs_are_those_of_a_bundle(
    spoil: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    bad = shipped()
    check_interface(bad)
    spoil(bad)
    with pytest.raises(InputError, match=reason):
        check_interface(bad)
