"""A tensorrt bundle holds one graph per precision; each has its own scores and decision."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sanflow.bundle import Bundle, Decision, Manifest, manifest, with_decisions, write_bundle
from sanflow.bundle.coherence import check
from sanflow.bundle.spelling import parse, serialise
from sanflow.errors import BundleError, ConfigError, InputError

m = manifest
PRECISIONS: tuple[m.Precision, ...] = ("fp16", "int8", "fp32")


def graph(draft: Manifest, precision: m.Precision, **changes: object) -> m.Graph:
    """The draft's graph in another precision, as a tensorrt bundle names it."""
    fields: dict[str, object] = {
        "precision": precision,
        "regions": {"extractor": precision, "likelihood": "fp32"},
        "activation": "int8" if precision == "int8" else None,
        "files": m.graph_files("tensorrt", precision),
    }
    return dataclasses.replace(draft.graph(), **{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def several(tmp_path: Path, draft: Manifest, contents: dict[str, bytes]) -> Bundle:
    """A bundle that prefers fp16."""
    graphs = tuple(graph(draft, precision) for precision in PRECISIONS)
    data = contents.pop("model.onnx")
    files = {name: data for each in graphs for name in each.files}
    told = dataclasses.replace(draft, target="tensorrt", graphs=graphs)
    return write_bundle(tmp_path / "several", told, {**contents, **files})


def test_graphs_are_found_by_precision_and_the_preferred_one_is_first(several: Bundle) -> None:
    told = Bundle.open(several.path).manifest
    assert tuple(g.precision for g in told.graphs) == PRECISIONS
    assert told.graph() is told.graphs[0]
    assert told.graph("int8").files == ("model.int8.onnx",)
    assert parse(serialise(told)) == told
    with pytest.raises(InputError, match=r"'bf16': this bundle holds fp16, int8, fp32; name one"):
        told.graph("bf16")


def test_every_graph_gets_its_own_decision(several: Bundle) -> None:
    decisions = [Decision(t, None, t, t, 0.0, 2.0) for t in (0.3, 0.4, 0.5)]
    changed = with_decisions(several, decisions)
    assert [g.decision for g in changed.manifest.graphs] == decisions
    assert [g.scores for g in changed.manifest.graphs] == [
        g.scores for g in several.manifest.graphs
    ]
    with pytest.raises(ValueError, match="shorter"):
        with_decisions(several, decisions[:2])


def test_a_bundle_of_several_graphs_is_replaced_and_damage_to_any_is_found(
    several: Bundle, draft: Manifest, contents: dict[str, bytes]
) -> None:
    path = several.path / "model.int8.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\0")
    with pytest.raises(BundleError, match=r"model\.int8\.onnx: sha256 .* altered"):
        Bundle.open(several.path)
    contents["model.onnx"] = data
    assert write_bundle(several.path, draft, contents, force=True).manifest.target == "onnx"


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (("fp16",), "graphs in fp16: a tensorrt bundle holds fp32"),
        (("fp32", "fp32"), "graphs in fp32, fp32: .* at most once each"),
        (("fp32", "bf16"), "graphs in fp32, bf16: .* fp16 and int8"),
        ((), "a tensorrt bundle holds fp32"),
    ],
)
def test_a_device_always_finds_fp32(
    draft: Manifest, held: tuple[m.Precision, ...], reason: str
) -> None:
    graphs = tuple(graph(draft, precision) for precision in held)
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(draft, target="tensorrt", graphs=graphs)


def test_tensorrt_graphs_have_their_names_and_int8_activations(draft: Manifest) -> None:
    for wrong, reason in (
        (graph(draft, "fp16", files=("model.onnx",)), r"are not \('model\.fp16\.onnx',\)"),
        (graph(draft, "int8", activation="uint8"), "TensorRT knows int8 activations only"),
    ):
        with pytest.raises(ValueError, match=reason):
            dataclasses.replace(draft, target="tensorrt", graphs=(graph(draft, "fp32"), wrong))


def test_scores_of_every_graph_are_counted(draft: Manifest) -> None:
    graphs = (graph(draft, "fp32"), graph(draft, "fp16", scores=(0.5,), part_scores=(0.5,)))
    told = dataclasses.replace(draft, target="tensorrt", graphs=graphs)
    with pytest.raises(ConfigError, match=r"manifest\.graphs\[1\]\.scores: 1 scores for 3 images"):
        check(told)
