"""The scan finds external data, and everything else that sanflow never writes, without a parser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from sanflow.bundle.onnx_wire import problem

FLOATS = np.arange(6, dtype=np.float32)


def model() -> onnx.ModelProto:
    """Every kind of attribute and tensor encoding that an exported graph may hold."""
    tensors = [
        onnx.numpy_helper.from_array(FLOATS, "raw"),
        helper.make_tensor("floats", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("ints", TensorProto.INT64, [2], [1, -2]),
        helper.make_tensor("bytes", TensorProto.UINT8, [2], [1, 255]),
    ]
    node = helper.make_node(
        "Any",
        ["raw"],
        ["out"],
        name="n",
        f=1.5,
        i=-3,
        s="text",
        floats=[1.0, 2.0],
        ints=[1, 2],
        strings=["a", "b"],
        t=helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]),
        tensors=[helper.make_tensor("u", TensorProto.FLOAT, [1], [1.0])],
    )
    info = helper.make_tensor_value_info("raw", TensorProto.FLOAT, [6])
    graph = helper.make_graph([node], "g", [info], [info], tensors, value_info=[info])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_self_contained_model_passes() -> None:
    assert problem(model().SerializeToString()) is None


def external(tensor: onnx.TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"


def only_location(tensor: onnx.TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL


def only_entry(tensor: onnx.TensorProto) -> None:
    tensor.external_data.add()


@pytest.mark.parametrize("mark", [external, only_location, only_entry])
@pytest.mark.parametrize(
    "pick",
    [
        lambda m: m.graph.initializer[0],
        lambda m: m.graph.initializer[3],
        lambda m: m.graph.node[0].attribute[6].t,
        lambda m: m.graph.node[0].attribute[7].tensors[0],
    ],
)
def test_external_data_is_found_wherever_a_tensor_may_be(
    mark: Callable[[onnx.TensorProto], None],
    pick: Callable[[onnx.ModelProto], onnx.TensorProto],
) -> None:
    bad = model()
    mark(pick(bad))
    assert "a tensor" in str(problem(bad.SerializeToString()))
    assert "external" in str(problem(bad.SerializeToString()))


def test_the_default_location_spelt_out_is_harmless() -> None:
    good = model()
    good.graph.initializer[0].data_location = TensorProto.DEFAULT
    good.graph.node[0].domain = ""
    assert problem(good.SerializeToString()) is None


def subgraph(m: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [])
    m.graph.node[0].attribute.append(helper.make_attribute("then_branch", inner))


def subgraphs(m: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [])
    m.graph.node[0].attribute.append(helper.make_attribute("branches", [inner]))


def sparse(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.add()


def function(m: onnx.ModelProto) -> None:
    m.functions.add().name = "f"


def training(m: onnx.ModelProto) -> None:
    m.training_info.add()


def metadata(m: onnx.ModelProto) -> None:
    entry = m.metadata_props.add()
    entry.key, entry.value = "ort_config", "{}"


def node_domain(m: onnx.ModelProto) -> None:
    m.graph.node[0].domain = "com.microsoft"


def opset_domain(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("com.microsoft", 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (subgraph, "an? attribute holds a subgraph"),
        (subgraphs, "holds subgraphs"),
        (sparse, "holds sparse tensors"),
        (function, "carries functions"),
        (training, "carries a training graph"),
        (metadata, "carries metadata"),
        (node_domain, "a node uses a custom operator domain"),
        (opset_domain, "imports a custom operator domain"),
    ],
)
def test_places_where_a_tensor_or_code_could_hide_are_refused(
    change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    bad = model()
    change(bad)
    assert re.search(reason, str(problem(bad.SerializeToString())))


def test_a_second_graph_field_is_looked_at_too() -> None:
    """Parsers merge repeated message fields, so the scan must see all of them."""
    bad = onnx.ModelProto()
    external(bad.graph.initializer.add())
    joined = model().SerializeToString() + bad.SerializeToString()
    assert onnx.load_from_string(joined).graph.initializer[-1].data_location
    assert "external" in str(problem(joined))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no graph"),
        (model().SerializeToString()[:-1], "cut short"),
        (b"\x08", "cut short"),
        (b"\x3a\xff\x01", "cut short"),
        (b"\x88\x00\x01", "needless bytes"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "longer than 64 bits"),
        (b"\x3b", "unknown wire type 3"),
        (b"\x38\x01", "field 7 of a model has the wrong wire type"),
        (b"\xf8\x07\x01", "field 127 of a model is unknown"),
        (b"\x3a\x04\x2a\x02\x7d\x00", "cut short|unknown"),
    ],
)
def test_malformed_bytes_are_refused(data: bytes, reason: str) -> None:
    assert re.search(reason, str(problem(data)))


def test_no_byte_change_hides_external_data() -> None:
    """Whatever one changed byte makes of the file: if a parser sees external data, so do we."""
    bad = model()
    external(bad.graph.initializer[0])
    data = bad.SerializeToString()
    seen = 0
    for at in range(len(data)):
        for bit in range(8):
            mutant = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            if problem(mutant) is not None:
                continue
            parsed = parse(mutant)
            if parsed is not None:
                assert not any(t.data_location or t.external_data for t in tensors(parsed))
                seen += 1
    assert seen < len(data)


def parse(data: bytes) -> onnx.ModelProto | None:
    """What the official parser makes of it, or None where it gives up."""
    try:
        return onnx.load_from_string(data)
    except DecodeError:
        return None


def tensors(m: onnx.ModelProto) -> list[Any]:
    """Every tensor the parser sees."""
    attributes = [a for n in m.graph.node for a in n.attribute]
    own = [a.t for a in attributes if a.HasField("t")]
    return [*m.graph.initializer, *own, *(t for a in attributes for t in a.tensors)]
