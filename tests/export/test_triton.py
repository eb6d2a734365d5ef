"""A server's model repository: its configuration is what the server's own parser takes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import pytest
from google.protobuf import text_format
from typer.testing import CliRunner

from sanflow.bundle import Bundle, Decision, Manifest
from sanflow.bundle.manifest import Graph, Tensor, graph_files
from sanflow.cli import app
from sanflow.errors import InputError, ParityError
from sanflow.export.triton import CONFIG, PLAN, config_text, export_model, place
from sanflow.imaging import Roi
from sanflow.run import Run
from sanflow.runtime.parity import verify

from .model_config import ours, parse, shape_of, theirs

RATE = 0.1
Exporter = Callable[[Path], Bundle]


@pytest.fixture(scope="module")
def models(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository that the command wrote, with the run for both CPU back ends."""
    out = tmp_path_factory.mktemp("repository")
    for target in ("onnx", "openvino"):
        done = CliRunner().invoke(app, words(run, out / f"on-{target}", target))
        assert done.exit_code == 0, done.output
    return out


def words(run: Run, out: Path, target: str) -> list[str]:
    """The command that makes a model of the run."""
    paths = ["export", str(run.path), "--out", str(out), "--target", target]
    return [*paths, "--layout", "triton", "--false-alarm-rate", str(RATE)]


def copying(models: Path, target: str = "onnx") -> Exporter:
    """An export in no time: it writes what was exported before."""
    return lambda folder: Bundle.open(shutil.copytree(models / f"on-{target}" / "1", folder))


def manifest_for(models: Path, target: Any, precisions: tuple[Any, ...] = ("fp32",)) -> Manifest:
    """The manifest of the real bundle, as if it were for this target in these precisions."""
    manifest = Bundle.open(models / "on-onnx" / "1").manifest

    def graph(index: int, precision: Any) -> Graph:
        low = 1.5 + index
        return dataclasses.replace(
            manifest.graph(),
            precision=precision,
            regions={"extractor": precision, "likelihood": "fp32"},
            files=graph_files(target, precision),
            activation="int8" if precision == "int8" else None,
            decision=Decision(low, None, low - 0.5, low + 0.5, 0.0, 9.0),
        )

    graphs = tuple(graph(index, precision) for index, precision in enumerate(precisions))
    return dataclasses.replace(manifest, target=target, graphs=graphs)


def parameters(config: Any) -> dict[str, str]:
    return {key: entry.string_value for key, entry in config.parameters.items()}


def test_our_schema_is_the_public_one() -> None:
    theirs_ = theirs()
    if theirs_ is None:
        pytest.skip("tritonclient is not installed: pip install --no-deps tritonclient")
    assert shape_of(ours()) == shape_of(theirs_, only=ours())


def test_the_parser_can_refuse() -> None:
    with pytest.raises(text_format.ParseError):
        parse('name: "x"\nthreshold: 3\n')
    with pytest.raises(text_format.ParseError):
        parse("max_batch_size: 0\ninput { data_type: TYPE_UINT9 }\n")


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_server_finds_what_it_is_told(models: Path, target: str) -> None:
    folder = models / f"on-{target}"
    config = parse((folder / CONFIG).read_text("utf-8"))
    bundle = Bundle.open(folder / "1")
    manifest = bundle.manifest
    assert (config.name, config.max_batch_size) == (folder.name, 0)
    assert config.backend == {"onnx": "onnxruntime", "openvino": "openvino"}[target]
    assert (folder / "1" / config.default_model_filename).is_file()
    if target == "openvino":  # the IR's weights are looked for beside it, under the same name
        assert (folder / "1" / "model.bin").is_file()
    assert [len(config.input), len(config.output)] == [1, 2]
    for given, tensor in zip(
        (*config.input, *config.output), (manifest.input, *manifest.outputs), strict=True
    ):
        kind = {"uint8": 2, "float32": 11}[tensor.dtype]
        assert (given.name, given.data_type) == (tensor.name, kind)
        assert tuple(given.dims) == tensor.shape
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 1
    assert tuple(warmup.inputs["image"].dims) == manifest.input.shape
    assert warmup.inputs["image"].zero_data
    assert config.instance_group[0].kind == 2  # KIND_CPU


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_graph_that_is_served_is_the_one_that_was_proven(models: Path, target: str) -> None:
    engine = {"onnx": "onnxruntime", "openvino": "openvino"}[target]
    assert verify(Bundle.open(models / f"on-{target}" / "1"), engine, threads=1).passed
    assert sorted(entry.name for entry in (models / f"on-{target}").iterdir()) == ["1", CONFIG]


def test_the_decision_is_in_the_parameters_to_the_bit(models: Path) -> None:
    manifest = Bundle.open(models / "on-onnx" / "1").manifest
    found = parameters(parse((models / "on-onnx" / CONFIG).read_text("utf-8")))
    decision = manifest.graph().decision
    for name in ("threshold", "band_low", "band_high", "display_low", "display_high"):
        assert float(found[f"sanflow.{name}"]) == getattr(decision, name), name
    assert float(found["sanflow.false_alarm_rate"]) == RATE
    assert found["sanflow.bundle"] == manifest.digest
    assert found["sanflow.roi"] == "5,3,120,80"


def test_what_the_bundle_does_not_have_is_not_there(models: Path) -> None:
    manifest = manifest_for(models, "onnx")
    whole = dataclasses.replace(manifest, pixels=dataclasses.replace(manifest.pixels, roi=None))
    found = parameters(parse(config_text(whole, "x")))
    assert not {"sanflow.roi", "sanflow.false_alarm_rate"} & found.keys()


def test_openvino_is_set_up_as_on_the_line_but_for_the_precision_which_is_told(
    models: Path,
) -> None:
    """The back end sets what the configuration says, and nothing else: OpenVINO then takes BF16."""
    text = (models / "on-openvino" / CONFIG).read_text("utf-8")
    given = {k: v for k, v in parameters(parse(text)).items() if not k.startswith("sanflow.")}
    assert given == {"NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    core.set_property("CPU", given)
    compiled = core.compile_model(models / "on-openvino" / "1" / "model.xml", "CPU")
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert (compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16) is has_bf16
    assert "BF16" in text
    assert "BF16" not in (models / "on-onnx" / CONFIG).read_text("utf-8")


def test_batches_and_another_region_are_written_as_they_are(models: Path) -> None:
    manifest = manifest_for(models, "onnx")
    shape = manifest.input.shape[1:]
    pixels = dataclasses.replace(manifest.pixels, roi=Roi(1, 2, 30, 40))
    many = dataclasses.replace(manifest, pixels=pixels, input=Tensor("image", "uint8", (4, *shape)))
    config = parse(config_text(many, "x"))
    assert tuple(config.input[0].dims) == (4, *shape)
    assert config.max_batch_size == 0  # the graph takes four, never fewer
    assert parameters(config)["sanflow.roi"] == "1,2,30,40"


def test_a_tensorrt_plan_has_its_slot_and_its_recipe(models: Path) -> None:
    manifest = manifest_for(models, "tensorrt", ("fp16", "fp32", "int8"))
    text = config_text(manifest, "screws")
    config = parse(text)
    assert (config.backend, config.default_model_filename) == ("tensorrt", Path(PLAN).name)
    assert config.instance_group[0].kind == 1  # KIND_GPU
    assert float(parameters(config)["sanflow.threshold"]) == 1.5  # of the preferred graph
    assert parameters(config)["sanflow.precision"] == "fp16"
    for words in (
        "--onnx=/models/screws/bundle/model.fp16.onnx",
        "--saveEngine=/models/screws/1/model.plan",
        "--stronglyTyped",
    ):
        assert words in text
    assert "--fp16" not in text  # the types are in the graph
    assert "--noTF32" not in text
    alone = config_text(manifest_for(models, "tensorrt", ("fp32",)), "screws")
    assert "--noTF32" in alone  # FP32 is what was judged, not TF32


def test_a_plan_in_its_slot_leaves_the_recipe_whole(run: Run, models: Path, tmp_path: Path) -> None:
    """Only the place depends on the target; a bundle of another stands in for it."""
    assert place("tensorrt") == "bundle"
    export_model(tmp_path / "screws", "tensorrt", copying(models))
    slot = tmp_path / "screws" / PLAN
    assert list(slot.parent.iterdir()) == []
    slot.write_bytes(b"plan")
    Bundle.open(tmp_path / "screws" / "bundle")


@pytest.mark.slow
def test_the_recipe_of_a_real_export(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "screws"
    done = CliRunner().invoke(app, words(run, folder, "tensorrt"))
    assert done.exit_code == 0, done.output
    recipe = Bundle.open(folder / "bundle")
    assert recipe.manifest.target == "tensorrt"
    text = (folder / CONFIG).read_text("utf-8")
    given = parameters(parse(text))
    assert given["sanflow.precision"] == "fp16"
    assert float(given["sanflow.threshold"]) == recipe.manifest.graph("fp16").decision.threshold
    assert "/bundle/model.fp16.onnx" in text
    assert list((folder / "1").iterdir()) == []
    assert verify(recipe, "onnxruntime", threads=1).passed


def test_another_model_in_the_repository_is_left_alone(models: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "1").mkdir(parents=True)
    (other / CONFIG).write_text('name: "other"\n')
    with pytest.raises(InputError, match="no model of sanflow"):
        export_model(other, "onnx", copying(models), force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        export_model(tmp_path / "file", "onnx", copying(models), force=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "other"]


@pytest.mark.parametrize("name", ["a model", "models:1", '"quoted"', "-x"])
def test_a_name_the_server_would_not_take_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot name a model"):
        export_model(tmp_path / name, "onnx", lambda folder: pytest.fail("it was exported"))
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_model_and_force_replaces_it(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "screws"
    export_model(folder, "onnx", copying(models))
    before = (folder / CONFIG).read_text()

    def fails(out: Path) -> Bundle:
        out.mkdir(parents=True)
        raise ParityError("a verdict flips")

    with pytest.raises(ParityError):
        export_model(folder, "onnx", fails, force=True)
    with pytest.raises(InputError, match="replace it with --force"):
        export_model(folder, "onnx", fails)
    assert (folder / CONFIG).read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["screws"]
    export_model(folder, "openvino", copying(models, "openvino"), force=True)
    assert parse((folder / CONFIG).read_text()).backend == "openvino"
    assert [entry.name for entry in tmp_path.iterdir()] == ["screws"]


def test_the_command_asks_before_it_replaces(run: Run, models: Path) -> None:
    done = CliRunner().invoke(app, words(run, models / "on-onnx", "onnx"))
    assert done.exit_code == InputError.exit_code
    assert "replace it with --force" in done.stderr
