"""A tensorrt bundle: which graphs it holds, what judged them, and what NVIDIA's builder says."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sanflow.bundle import Bundle
from sanflow.calibration.calibrate import load_calibration
from sanflow.calibration.ranges import Ranges
from sanflow.errors import EngineError, InputError, ParityError
from sanflow.export import export, nvidia, parts
from sanflow.export.candidate import Bench
from sanflow.export.emulate import EMULATED
from sanflow.export.export import Prepared, export_run, prepare
from sanflow.export.gate import Contract, Jury
from sanflow.export.half import CLIP
from sanflow.export.recipe import recipe
from sanflow.run import Run
from sanflow.runtime import open_engine
from sanflow.runtime.parity import verify

RATE = 0.1
ANYTHING = Contract(flips_outside=1000, rank_correlation=-1, map_error=1e9)
STAGES = ("extractor1", "extractor2")
"""What an untrained model keeps: its scores of good parts differ by less than int8 rounds."""


@pytest.fixture(scope="module", autouse=True)
def hurried() -> Iterator[None]:
    """NVIDIA's builder takes seconds per graph; the tests that ask it do so themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "installed_here", lambda: False)
        patch.setattr(parts, "SYNTHETIC_BATCHES", 1)  # a fourth of the anomalies is enough here
        yield


@pytest.fixture(scope="module")
def lowered(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The run as int8, fp16 and fp32."""
    out = tmp_path_factory.mktemp("recipe") / "int8"
    return export_run(
        run, out, "tensorrt", precision="int8", false_alarm_rate=RATE, contract=ANYTHING
    )


@pytest.fixture(scope="module")
def prepared(run: Run) -> Prepared:
    """What the target's usual precision gives, before it is written."""
    return prepare(run, "tensorrt", false_alarm_rate=RATE)


def graph_of(bundle: Bundle, precision: str) -> onnx.ModelProto:
    return onnx.load_from_string(bundle.read(bundle.manifest.graph(precision).files[0]))


def test_the_usual_precision_is_fp16_and_fp32_is_there(run: Run, prepared: Prepared) -> None:
    made = {one.outcome.candidate.precision: one for one in prepared.made}
    assert list(made) == ["fp16", "fp32"]
    plan = made["fp16"].outcome.candidate.plan
    assert {r for r, p in plan.regions.items() if p == "fp16"} == {*STAGES, "head"}
    assert {p for r, p in plan.regions.items() if r not in (*STAGES, "head")} == {"fp32"}
    names = [loss.engine.rsplit(" ", 1)[0] for loss in made["fp16"].outcome.losses]
    assert names == [EMULATED, "onnxruntime", "openvino"]
    assert not any(loss.flips_outside for loss in made["fp16"].outcome.losses)
    assert made["fp32"].settled.decision == load_calibration(run).decision(RATE)
    assert made["fp16"].settled.scores != made["fp32"].settled.scores


def test_every_precision_is_there_with_its_operator_set_and_types(lowered: Bundle) -> None:
    told = lowered.manifest
    assert [g.precision for g in told.graphs] == ["int8", "fp16", "fp32"]
    assert told.graph().activation == "int8"
    for precision, opset in (("fp32", 17), ("fp16", 17), ("int8", 19)):
        graph = graph_of(lowered, precision)
        assert [(o.domain, o.version) for o in graph.opset_import] == [("", opset)]
        kinds = {t.data_type for t in graph.graph.initializer}
        assert (TensorProto.FLOAT16 in kinds) == (precision != "fp32")
        assert (TensorProto.INT8 in kinds) == (precision == "int8")
    coded = [n for n in graph_of(lowered, "int8").graph.node if "Quantize" in n.op_type]
    constants = {t.name: t for t in graph_of(lowered, "int8").graph.initializer}
    assert len(coded) > 20
    assert {constants[n.input[1]].data_type for n in coded} == {TensorProto.FLOAT16}
    assert {constants[n.input[2]].data_type for n in coded} == {TensorProto.INT8}
    regions = told.graph("int8").regions
    assert [regions[stage] for stage in STAGES] == ["int8", "int8"]
    assert regions["head"] == "fp16"
    assert {p for r, p in regions.items() if r not in (*STAGES, "head")} == {"fp32"}


def test_a_machine_without_a_gpu_verifies_every_graph(
    run: Run, lowered: Bundle, data: Path
) -> None:
    images = [data / image.path for image in load_calibration(run).images]
    report = verify(lowered, data=images)
    assert report.passed, report.text()
    assert {(c.engine, c.precision) for c in report.comparisons} >= {
        (engine, graph.precision)
        for engine in ("onnxruntime", "openvino")
        for graph in lowered.manifest.graphs
    }


def test_the_report_tells_of_every_graph_and_of_the_builder(lowered: Bundle) -> None:
    page = lowered.read("report.html").decode()
    for precision in ("int8", "fp16"):
        assert f"<h2>The gate, {precision}</h2>" in page
        assert f"<h2>Precision by region, {precision}</h2>" in page
    assert page.count("At export a part is NG when") == 3
    assert EMULATED in page
    assert "not asked: TensorRT for RTX is not installed here" in page
    assert "Latency on the exporting machine" not in page


def rounded_away(self: Bench) -> Ranges:
    """Ranges a thousand times too small: everything clips."""
    found: Ranges = OBSERVE.func(self)  # type: ignore[attr-defined]
    return dataclasses.replace(found, maxima={k: v * 1e-3 for k, v in found.maxima.items()})


OBSERVE = Bench.__dict__["ranges"]


@pytest.mark.slow
def test_auto_is_int8_unless_the_gate_says_no(
    run: Run, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    jury = jury_of(run, prepared)
    found = recipe(prepared.bench, "auto", jury, ANYTHING)
    assert [o.candidate.precision for o in found] == ["int8", "fp16", "fp32"]
    bench = dataclasses.replace(prepared.bench)
    monkeypatch.setattr(Bench, "ranges", property(rounded_away))
    lines: list[str] = []
    found = recipe(bench, "auto", jury, Contract(), tell=lines.append)
    assert [o.candidate.precision for o in found] == ["fp16", "fp32"]
    assert lines[0].startswith(f"int8: left out: {EMULATED}")
    assert lines[1].startswith("fp16: keeps the contract")
    with pytest.raises(ParityError, match=r"^int8 breaks the contract, so no bundle was written"):
        recipe(bench, "int8", jury, Contract())


def jury_of(run: Run, prepared: Prepared) -> Jury:
    return Jury(prepared.good, load_calibration(run).decision(RATE))


def overflowing(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in FP32, with a value in the extractor that FP16 cannot hold."""
    made = copy.deepcopy(graph)
    nodes = made.graph.node
    at = next(i for i, n in enumerate(nodes) if "stages" in n.name and n.op_type == "Relu")
    node = nodes[at]
    name, node.output[0] = node.output[0], "before"
    steps = ["before", "large", "larger", "less", name]
    extra = [
        helper.make_node(kind, [old, "factor"], [new], f"{node.name}/{new}")
        for kind, old, new in zip(("Mul", "Mul", "Div", "Div"), steps, steps[1:], strict=False)
    ]
    for offset, one in enumerate(extra, start=1):
        nodes.insert(at + offset, one)
    made.graph.initializer.append(numpy_helper.from_array(np.float32(6e4), "factor"))
    return made


def test_fp16_that_overflows_is_found_though_onnxruntime_hides_it(
    run: Run, prepared: Prepared
) -> None:
    bench = dataclasses.replace(prepared.bench, graph=overflowing(prepared.bench.graph))
    jury = jury_of(run, prepared)
    candidate = bench.uniform("fp16")
    with candidate.open("onnxruntime") as engine:
        assert not jury.hear(engine).broken(Contract())
    with pytest.raises(ParityError, match=EMULATED):
        recipe(bench, "fp16", jury, Contract())


def strong(prepared: Prepared) -> NDArray[np.uint8]:
    """Goldens, and what no camera ever shows: noise, black, white, inverted, half of each."""
    rng = np.random.default_rng(0)
    images = prepared.goldens.images
    noise = rng.integers(0, 256, images[:4].shape).astype(np.uint8)
    flat = np.stack([np.full_like(images[0], value) for value in (0, 255)])
    torn = images[:4].copy()
    torn[:, :32] = 255 - torn[:, :32]
    return np.concatenate([images, noise, flat, 255 - images[:4], torn])


@pytest.mark.parametrize("flows", [False, True])
def test_strong_anomalies_are_finite_and_no_verdict_flips(
    run: Run, prepared: Prepared, flows: bool
) -> None:
    """In emulation; with the flows' products in FP16, the clip before them is what keeps it so."""
    bench = dataclasses.replace(prepared.bench, flows=flows)
    candidate = bench.uniform("fp16")
    graph = onnx.load_from_string(candidate.files["model.fp16.onnx"])
    bounds = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    assert (bounds.get("half_high") == CLIP) if flows else "half_high" not in bounds
    assert flows == (candidate.plan.of("level1.first") == "fp16")
    decision = load_calibration(run).decision(RATE)
    with candidate.open(EMULATED) as engine, bench.uniform("fp32").open("onnxruntime") as plain:
        for image in strong(prepared):
            found, wanted = engine.infer(image[None]), plain.infer(image[None])
            assert np.isfinite(found.score).all()
            assert np.isfinite(found.map).all()
            outside = not decision.band_low <= wanted.score[0] <= decision.band_high
            if outside:
                verdicts = {float(o.score[0]) > decision.threshold for o in (found, wanted)}
                assert len(verdicts) == 1


@pytest.mark.parametrize(
    ("target", "options", "reason"),
    [
        ("tensorrt", {"precision": "bf16"}, "bf16 needs the target openvino, not tensorrt"),
        ("tensorrt", {"activation": "uint8"}, "TensorRT knows int8 activations only"),
        ("onnx", {"flows": True}, "or use the target tensorrt"),
        ("tensorflow", {}, "'tensorflow' is not one of onnx, openvino, tensorrt"),
    ],
)
def test_what_does_not_belong_to_a_target_is_refused(
    run: Run, target: str, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        prepare(run, target, **options)  # type: ignore[arg-type]


def test_an_engine_reads_the_graph_that_is_asked_for(lowered: Bundle, data: Path) -> None:
    image = lowered.pixel_path.load(sorted(data.glob("*.png"))[0])[None]
    said = {}
    for graph in lowered.manifest.graphs:
        with open_engine(lowered, "onnxruntime", precision=graph.precision) as engine:
            said[graph.precision] = float(engine.infer(image).score[0])
    assert len(set(said.values())) == 3


def test_what_the_builder_refuses_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise EngineError("tensorrt-rtx 1.7: In node 7 (Foo): UNSUPPORTED_NODE")

    monkeypatch.setattr(export, "installed_here", lambda: True)
    monkeypatch.setattr(nvidia.build, "run", refuse)
    with pytest.raises(EngineError, match=r"builder refuses the fp32 graph: .*node 7"):
        export_run(run, tmp_path / "b", "tensorrt", precision="fp32", false_alarm_rate=RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.trt_builder
def test_nvidias_builder_makes_a_plan_of_every_graph(lowered: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    lines: list[str] = []
    found = nvidia.accept(lowered, lines.append)
    assert [one.precision for one in found] == ["int8", "fp16", "fp32"]
    assert all(one.plan_bytes > 1e6 and one.seconds > 0 for one in found)
    assert len(lines) == 3
