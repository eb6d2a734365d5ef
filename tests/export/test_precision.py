"""Lower precision, from a run to a bundle: the gate keeps the promise, or nothing is written."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sanflow import imaging
from sanflow.bundle import Bundle
from sanflow.calibration.calibrate import load_calibration
from sanflow.calibration.ranges import Ranges
from sanflow.cli import app
from sanflow.errors import DataError, InputError, ParityError
from sanflow.export import search
from sanflow.export.candidate import Bench, Candidate
from sanflow.export.export import export_run, prepare
from sanflow.export.gate import Contract, Jury
from sanflow.export.search import Search, Trial
from sanflow.run import Run, open_run
from sanflow.runtime import open_engine
from sanflow.runtime.parity import verify

RATE = 0.1
ANYTHING = Contract(flips_outside=1000, rank_correlation=-1, map_error=1e9)
"""What an untrained model keeps: its scores of good parts differ by less than int8 rounds."""
STAGES = ("extractor1", "extractor2")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Races of a few turns."""
    monkeypatch.setattr(search, "ROUNDS", (1, 2))


@pytest.fixture(scope="session")
def lowered(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The run in int8, for OpenVINO."""
    out = tmp_path_factory.mktemp("lowered") / "int8"
    return export_run(
        run, out, "openvino", precision="int8", false_alarm_rate=RATE, contract=ANYTHING
    )


def rounded_away(self: Bench) -> Ranges:
    """Ranges a thousand times too small: everything clips."""
    found: Ranges = OBSERVE.func(self)  # type: ignore[attr-defined]
    return dataclasses.replace(found, maxima={k: v * 1e-3 for k, v in found.maxima.items()})


OBSERVE: Any = Bench.__dict__["ranges"]


def test_the_manifest_says_what_is_int8(lowered: Bundle) -> None:
    manifest = lowered.manifest
    graph = manifest.graph()
    assert graph.precision == "int8"
    assert graph.activation == "uint8"
    assert {r for r, p in graph.regions.items() if p == "int8"} == {
        r for r in graph.regions if r in (*STAGES, "head") or r.endswith(("first", "last"))
    }
    assert graph.regions["likelihood"] == "fp32"
    small = manifest.files["model.bin"].bytes
    assert small < 0.35 * 4 * manifest.model.parameters


def test_the_decision_is_that_of_the_graphs_own_scores(
    run: Run, lowered: Bundle, data: Path
) -> None:
    """The order statistic of what the engine says now; PyTorch's scores are other ones."""
    graph = lowered.manifest.graph()
    calibration = load_calibration(run)
    with open_engine(lowered) as engine:
        scores = [
            float(engine.infer(lowered.pixel_path.load(data / image.path)[None]).score[0])
            for image in calibration.images
        ]
    assert graph.scores == pytest.approx(sorted(scores), rel=1e-6)
    assert graph.scores != calibration.scores
    assert sum(score > graph.decision.threshold for score in scores) <= int(13 * RATE) - 1
    assert graph.decision.threshold == pytest.approx(sorted(scores)[12 - 1], rel=2e-4)


def test_goldens_and_references_stay_pytorchs_and_parity_holds_within_what_was_measured(
    run: Run, lowered: Bundle, data: Path
) -> None:
    references = load_calibration(run).references
    assert lowered.manifest.references == pytest.approx(references, rel=1e-5)
    tolerances = lowered.manifest.graph().tolerances
    assert tolerances.score_relative > 1e-4
    images = [data / image.path for image in load_calibration(run).images]
    report = verify(lowered, data=images)
    assert report.passed, report.text()
    for comparison in report.comparisons:
        assert comparison.score_relative.max > 1e-5  # it is not FP32 that is verified
        assert comparison.score_relative.max <= tolerances.score_relative / 1.4


def test_the_report_says_all_of_it(lowered: Bundle) -> None:
    page = lowered.read("report.html").decode()
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)
    for heading in ("Precision by region", "The gate", "What was tried", "Exact simplifications"):
        assert f"<h2>{heading}</h2>" in page
    for heading in ("Parity with PyTorch", "Latency on the exporting machine", "Decision"):
        assert f"<h2>{heading}</h2>" in page
    for region in lowered.manifest.graph().regions:
        assert f">{region}</td>" in page
    assert "this very graph" in page
    assert "No labelled defects were given" in page
    assert "int8 ranges come from 12 images" in page
    assert str(lowered.path.parent) not in page


@pytest.mark.slow
def test_every_command_takes_such_a_bundle(
    lowered: Bundle, run: Run, data: Path, tmp_path: Path
) -> None:
    bundle = str(lowered.path)
    for line in (
        ["verify", bundle],
        ["verify", bundle, "--data", str(data), "--run", str(run.path)],
        ["doctor", bundle],
        ["infer", bundle, "--source", str(data), "--out", str(tmp_path / "verdicts")],
        ["bench", bundle, "--seconds", "0.1", "--cold-starts", "1", "--json"],
        ["threshold", bundle],
    ):
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, f"{line}: {done.output}"


def test_the_threshold_command_gives_what_export_gave(lowered: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lowered.path, tmp_path / "b"))
    done = CliRunner().invoke(app, ["threshold", str(copy), "--false-alarm-rate", str(RATE)])
    assert done.exit_code == 0, done.output
    assert Bundle.open(copy).manifest.graph().decision == lowered.manifest.graph().decision


def test_a_graph_that_fails_is_not_written_and_the_regions_say_why(
    run: Run, lowered: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lowered.path, tmp_path / "b")
    monkeypatch.setattr(Bench, "ranges", property(rounded_away))
    lines: list[str] = []
    with pytest.raises(ParityError) as failure:
        export_run(
            run,
            tmp_path / "b",
            precision="int8",
            false_alarm_rate=RATE,
            force=True,
            tell=lines.append,
        )
    message = str(failure.value)
    assert message.startswith("int8 breaks the contract, so no bundle was written.\n  onnxruntime")
    assert "use `--precision auto`" in message
    table = dict(re.findall(r"^  ([a-z0-9.]+) +(\d+|inf) %", message, re.M))
    assert table.keys() == {
        *(*STAGES, "head", "level1.first", "level1.last", "level2.first", "level2.last"),
    }
    assert float(table["extractor1"]) > 100
    assert len(lines) == 8
    assert "int8, head alone: " in " ".join(lines)
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]
    assert Bundle.open(tmp_path / "b").manifest == lowered.manifest


@pytest.mark.slow
def test_auto_comes_back_to_fp32_when_nothing_else_keeps_the_contract(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "ranges", property(rounded_away))
    monkeypatch.setattr(search, "LEAST_GAIN", 0.0)
    strict = Contract(rank_correlation=1.0, map_error=1e-9)
    bundle = export_run(
        run, tmp_path / "b", precision="auto", false_alarm_rate=RATE, contract=strict
    )
    assert bundle.manifest.graph().precision == "fp32"
    assert bundle.manifest.graph().decision == load_calibration(run).decision(RATE)
    assert bundle.manifest.graph().scores == load_calibration(run).scores
    assert "<h2>What was tried</h2>" in bundle.read("report.html").decode()


def test_auto_raises_the_region_that_costs_most(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One region is spoilt; auto leaves that one in FP32 and lowers the others."""

    def spoilt(self: Bench) -> Ranges:
        found: Ranges = OBSERVE.func(self)
        own = {k: v * (1e-3 if "stages.1" in k else 1) for k, v in found.maxima.items()}
        return dataclasses.replace(found, maxima=own)

    monkeypatch.setattr(Bench, "ranges", property(spoilt))
    monkeypatch.setattr(search, "LEAST_GAIN", 0.0)
    contract = Contract(flips_outside=1000, rank_correlation=-1, map_error=0.5)
    prepared = prepare(run, precision="auto", false_alarm_rate=RATE, contract=contract)
    trials = {trial.alone: trial for trial in prepared.made[0].outcome.trials if trial.alone}
    assert {region for region, trial in trials.items() if trial.broken} == {"extractor2"}
    plan = prepared.made[0].outcome.candidate.plan
    assert {r for r, p in plan.regions.items() if p == "int8"} == trials.keys() - {"extractor2"}
    assert plan.of("extractor2") == "fp32"
    assert not prepared.made[0].outcome.losses[0].broken(contract)


def test_what_int8_gives_back_has_what_bf16_left_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One region keeps the contract in FP32 alone: INT8 may not give it back to BF16."""
    prepared = prepare(run, "openvino", precision="fp32", false_alarm_rate=RATE)
    jury = Jury(prepared.good, load_calibration(run).decision(RATE))
    tried = []

    def tell(
        self: Search, title: str, made: Candidate, jury: Jury, alone: str | None = None
    ) -> Trial:
        tried.append(title)
        speed = {"fp32": 1.0, "bf16": 1.5, "int8": 2.0}[made.precision]
        spoilt = made.plan.of("extractor1") != "fp32"
        broken = ("a verdict flips",) if spoilt else ()
        return Trial(title, made.plan, alone, speed, np.inf if spoilt else 0.1, (), broken)

    monkeypatch.setattr(Search, "_try", tell)
    with Search(prepared.bench, jury, ANYTHING) as searching:
        found = searching.best(bf16=True).candidate.plan
    assert {p for r, p in found.regions.items() if r.startswith("level1.f")} == {"int8"}
    assert found.of("extractor1") == "fp32"
    assert tried[-1] == "int8 but extractor1 in fp32, all parts"


@contextmanager
def opened_files() -> Iterator[set[str]]:
    """Every file that Python opens meanwhile."""
    seen: set[str] = set()
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open":
            seen.add(str(arguments[0]))

    sys.addaudithook(hook)
    try:
        yield seen
    finally:
        active = False


@pytest.mark.slow
def test_no_test_image_is_ever_opened(tiny_run: Path, parts: Path, tmp_path: Path) -> None:
    run = open_run(tiny_run)
    with opened_files() as seen:
        prepare(run, precision="auto", false_alarm_rate=RATE, contract=ANYTHING)
    images = {Path(name).relative_to(parts).parts[0] for name in seen if str(parts) in name}
    assert images == {"calibrate"}
    with pytest.raises(DataError, match=r"12 of 12 images .*\(test\).* could not be measured"):
        prepare(run, precision="auto", false_alarm_rate=RATE, defects=parts)


@pytest.fixture
def defects(tmp_path: Path) -> Path:
    """Four scratches with masks and two good parts, in the layout of a test folder."""
    root = tmp_path / "mine"
    rng = np.random.default_rng(3)
    for label, count in (("good", 2), ("scratch", 4)):
        for index in range(count):
            grey = rng.normal(120, 12, (90, 131)).clip(0, 255)
            mask = np.zeros(grey.shape, np.uint8)
            if label != "good":
                grey[30:40, 20:90] = 255
                mask[30:40, 20:90] = 255
                place = root / "ground_truth" / label / f"{index}_mask.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                imaging.write_png(place, np.repeat(mask[..., None], 3, axis=2))
            path = root / "test" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            imaging.write_png(path, np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2))
    return root


@pytest.mark.slow
def test_labelled_defects_are_judged_and_a_loss_on_them_refuses(run: Run, defects: Path) -> None:
    fair = dataclasses.replace(ANYTHING, auroc_loss=100, aupro_loss=100)
    prepared = prepare(run, precision="int8", false_alarm_rate=RATE, defects=defects, contract=fair)
    assert prepared.defects == 6
    for loss in prepared.made[0].outcome.losses:
        assert loss.auroc_loss is not None
        assert loss.aupro_loss is not None
    impossible = dataclasses.replace(ANYTHING, auroc_loss=-101.0)
    with pytest.raises(ParityError, match="image AUROC of the defects falls by"):
        prepare(run, precision="int8", false_alarm_rate=RATE, defects=defects, contract=impossible)


@pytest.mark.parametrize("layout", ["flat", "labels"])
def test_defects_may_lie_in_a_plain_folder(
    run: Run, defects: Path, tmp_path: Path, layout: str
) -> None:
    from sanflow.export.defects import find_defects

    plain = tmp_path / "plain" / ("" if layout == "flat" else "dent")
    plain.mkdir(parents=True)
    for index in range(4):
        shutil.copy(defects / "test" / "scratch" / f"{index}.png", plain)
    shutil.copy(defects / "ground_truth" / "scratch" / "2_mask.png", plain)
    found = find_defects(tmp_path / "plain", run)
    assert [s.label for s in found] == ["defect" if layout == "flat" else "dent"] * 4
    assert [s.mask is not None for s in found] == [False, False, True, False]


def test_defects_that_cannot_be_used_are_refused_before_any_work(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "model", lambda self: pytest.fail("the model was loaded"))
    options: dict[str, Any] = {"precision": "int8", "false_alarm_rate": RATE}
    with pytest.raises(DataError, match=r"20 of 20 images given with --defects .*\(train\)"):
        prepare(run, defects=data, **options)
    with pytest.raises(DataError, match="no such folder"):
        prepare(run, defects=tmp_path / "none", **options)
    with pytest.raises(DataError, match="0 images, none of a defect"):
        prepare(run, defects=tmp_path, **options)


def test_what_was_asked_must_exist(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision 'int4' is not one of fp32, fp16, bf16, int8"):
        export_run(run, tmp_path / "b", precision="int4", false_alarm_rate=RATE)
    with pytest.raises(InputError, match="bf16 needs the target openvino"):
        export_run(run, tmp_path / "b", precision="bf16", false_alarm_rate=RATE)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_fp16_is_in_the_graph_and_keeps_the_contract(run: Run, tmp_path: Path, target: str) -> None:
    bundle = export_run(
        run, tmp_path / "b", target, precision="fp16", batch=2, false_alarm_rate=RATE
    )
    assert bundle.manifest.graph().precision == "fp16"
    assert bundle.manifest.graph().activation is None
    assert bundle.batch == 2
    if target == "onnx":
        graph = onnx.load_from_string(bundle.read("model.onnx")).graph
        kinds = {t.data_type for t in graph.initializer}
        assert onnx.TensorProto.FLOAT16 in kinds
