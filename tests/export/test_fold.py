"""Folding removes what does not depend on the image, and keeps the function."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sanflow.export.fold import fold

node = helper.make_node


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    out: str = "y",
    shape: tuple[int, ...] = (2, 3),
) -> onnx.ModelProto:
    """A graph x (2, 3) -> `out`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(graph: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in graph.graph.node]


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_constant_arithmetic_becomes_one_constant() -> None:
    nodes = [
        node("Exp", ["a"], ["b"], "exp"),
        node("Add", ["b", "a"], ["c"], "add"),
        node("Mul", ["x", "c"], ["y"], "mul"),
    ]
    graph = model(nodes, {"a": np.float32([0, 1, 2])})
    folded = fold(graph)
    assert kinds(folded) == ["Mul"]
    assert [t.name for t in folded.graph.initializer] == ["c"]
    np.testing.assert_array_equal(run(folded, X), run(graph, X))


def test_shape_arithmetic_disappears_though_it_becomes_known_step_by_step() -> None:
    nodes = [
        node("Constant", [], ["two"], "two", value=numpy_helper.from_array(np.array([1, 6]))),
        node("Identity", ["two"], ["target"], "id"),
        node("Reshape", ["x", "target"], ["flat"], "flatten"),
        node("Shape", ["flat"], ["shape"], "shape"),
        node("Slice", ["shape", "one", "end"], ["last"], "last"),
        node("Concat", ["last", "one"], ["tall"], "tall", axis=0),
        node("Reshape", ["flat", "tall"], ["y"], "reshape"),
    ]
    graph = model(nodes, {"one": np.array([1]), "end": np.array([2])}, shape=(6, 1))
    folded = fold(graph)
    assert kinds(folded) == ["Reshape", "Reshape"]
    np.testing.assert_array_equal(run(folded, X), X.reshape(6, 1))


def test_identities_idle_casts_and_dead_ends_go_but_outputs_keep_their_names() -> None:
    nodes = [
        node("Identity", ["x"], ["a"], "id"),
        node("Cast", ["a"], ["b"], "cast", to=TensorProto.FLOAT),
        node("Exp", ["b"], ["unused"], "dead"),
        node("Neg", ["b"], ["c"], "neg"),
        node("Identity", ["c"], ["y"], "out"),
    ]
    folded = fold(model(nodes, {"w": np.float32([1])}))
    assert kinds(folded) == ["Neg", "Identity"]
    assert folded.graph.node[0].input == ["x"]
    assert folded.graph.output[0].name == "y"
    assert not folded.graph.initializer
    np.testing.assert_array_equal(run(folded, X), -X)


def test_a_real_cast_stays() -> None:
    nodes = [
        node("Cast", ["x"], ["i"], "down", to=TensorProto.INT32),
        node("Cast", ["i"], ["y"], "up", to=TensorProto.FLOAT),
    ]
    folded = fold(model(nodes, {}))
    assert kinds(folded) == ["Cast", "Cast"]
    np.testing.assert_array_equal(run(folded, X + 0.5), X)


def test_a_sum_that_is_much_larger_than_its_terms_stays_two_terms() -> None:
    """Rows plus columns of a position code: the engine adds them when it loads the graph."""
    nodes = [
        node("Add", ["rows", "columns"], ["grid"], "grid"),
        node("ReduceMax", ["grid"], ["most"], "most", keepdims=0),
        node("Mul", ["x", "most"], ["y"], "mul"),
    ]
    rows, columns = (
        np.linspace(0, 1, 100, dtype=np.float32).reshape(s) for s in ((-1, 1), (1, -1))
    )
    graph = model(nodes, {"rows": rows, "columns": columns})
    folded = fold(graph)
    assert kinds(folded) == ["Add", "ReduceMax", "Mul"]
    assert folded.ByteSize() < 2000
    np.testing.assert_array_equal(run(folded, X), run(graph, X))


def test_a_scalar_stays_a_scalar() -> None:
    nodes = [node("Neg", ["s"], ["t"], "neg"), node("Mul", ["x", "t"], ["y"], "mul")]
    folded = fold(model(nodes, {"s": np.array(2, np.float32)}))
    assert list(folded.graph.initializer[0].dims) == []


def test_documentation_strings_are_dropped() -> None:
    noisy = node("Neg", ["x"], ["y"], "neg", doc_string="/somewhere/model.py")
    graph = model([noisy], {})
    graph.doc_string = "/somewhere/else.py"
    graph.producer_name = "somebody"
    folded = fold(graph)
    assert b"somewhere" not in folded.SerializeToString()
    assert folded.producer_name == "sanflow"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["Add", "Mul", "Sub", "Max"]), min_size=1, max_size=8), st.data())
def test_folding_never_changes_the_function(operators: list[str], data: st.DataObject) -> None:
    names, nodes = ["x", "a", "b"], []
    for index, operator in enumerate(operators):
        inputs = [data.draw(st.sampled_from(names)) for _ in range(2)]
        name = "y" if index == len(operators) - 1 else f"v{index}"
        nodes.append(node(operator, inputs, [name], f"n{index}"))
        names.append(name)
    nodes[-1].input[0] = "x"
    graph = model(nodes, {"a": np.float32([[1, 2, 3]]), "b": np.float32([[2], [-1]])})
    np.testing.assert_array_equal(run(fold(graph), X), run(graph, X))
