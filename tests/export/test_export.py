"""A run becomes a bundle whose engines give PyTorch's verdicts, or it becomes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from sanflow.bundle import Bundle
from sanflow.calibration.calibrate import load_calibration
from sanflow.errors import CalibrationError, DataError, InputError, ParityError
from sanflow.export import export
from sanflow.export.export import export_run
from sanflow.export.reference import run_reference, torch_reference
from sanflow.imaging import pixel_sha256
from sanflow.run import Run, open_run
from sanflow.runtime.parity import verify

RATE = 0.1


@pytest.fixture(scope="session")
def bundles(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The run exported for both targets."""
    out = tmp_path_factory.mktemp("bundles")
    return {
        target: export_run(run, out / target, target, false_alarm_rate=RATE)
        for target in ("onnx", "openvino")
    }


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_manifest_says_what_the_run_is(
    run: Run, bundles: dict[str, Bundle], target: str
) -> None:
    manifest, calibration = bundles[target].manifest, load_calibration(run)
    assert manifest.target == target
    assert manifest.graph().decision == calibration.decision(RATE)
    assert manifest.graph().scores == calibration.scores
    assert manifest.calibration.level_max == calibration.level_max
    assert manifest.pixels == run.pixel_path
    assert manifest.input.shape == (1, 64, 64, 3)
    assert manifest.model.checkpoint_sha256 == calibration.model_sha256
    assert manifest.model.parameters == sum(p.numel() for p in run.model().parameters())
    assert (manifest.data.train, manifest.data.calibrate) == (8, 12)
    assert manifest.references.keys() == calibration.references.keys()
    assert manifest.references == pytest.approx(calibration.references, rel=1e-5)


def test_goldens_are_good_parts_and_all_kinds_of_anomalies(
    run: Run, bundles: dict[str, Bundle]
) -> None:
    goldens = bundles["onnx"].goldens()
    known = load_calibration(run).references
    assert len(goldens) >= 8
    good = [g for g in goldens if g.kind == "good"]
    assert {pixel_sha256(g.image) for g in good} <= known.keys()
    assert min(known.values()) == pytest.approx(min(g.score for g in good))
    assert max(known.values()) == pytest.approx(max(g.score for g in good))
    assert len(goldens) - len(good) == 6
    judge = torch_reference(run.model())
    for golden in goldens:
        score, heat = judge(golden.image)
        assert score == golden.score
        np.testing.assert_array_equal(heat, golden.map)


def test_no_trace_of_the_machine_is_in_a_bundle(run: Run, bundles: dict[str, Bundle]) -> None:
    home = str(Path(run.record.data.root).parent).encode()
    for bundle in bundles.values():
        for name in ("manifest.json", *bundle.manifest.files):
            content = (bundle.path / name).read_bytes()
            assert home not in content
            assert b"site-packages" not in content


def test_every_engine_gives_pytorchs_verdicts_on_the_users_own_images(
    run: Run, bundles: dict[str, Bundle], data: Path
) -> None:
    """Photographs of their own odd size, through decode, region of interest and resize."""
    images = sorted(data.iterdir())
    engines = {}
    for bundle in bundles.values():
        report = verify(bundle, data=images, reference=run_reference(run, bundle))
        assert report.passed, report.text()
        for c in report.comparisons:
            assert c.map_absolute is not None
            assert c.score_relative.max <= 1e-4
            assert c.map_absolute.max <= 1e-3
            assert not c.flips_outside
            assert c.images == (len(images) if c.source == "images" else 12)
            engines[bundle.manifest.target, c.engine] = True
    assert set(engines) == {
        ("onnx", "onnxruntime"),
        ("onnx", "openvino"),
        ("openvino", "openvino"),
    }


def test_the_same_run_exports_alike_wherever_its_data_lies_now(
    run: Run, bundles: dict[str, Bundle], data: Path, tmp_path: Path
) -> None:
    """Same bytes but for the time; and the progress reaches its total without going back."""
    shutil.copytree(data, tmp_path / "moved")
    gone = dataclasses.replace(run.record.data, root="/nowhere")
    moved = Run(run.path, dataclasses.replace(run.record, data=gone))
    seen: list[tuple[int, int]] = []
    again = export_run(
        moved,
        tmp_path / "again",
        false_alarm_rate=RATE,
        data=tmp_path / "moved",
        progress=lambda done, total: seen.append((done, total)),
    )
    reports = {"report.html"}  # what was measured
    first = bundles["onnx"].manifest.files
    assert again.manifest.files.keys() == first.keys()
    assert {n for n in first if again.manifest.files[n] != first[n]} <= reports
    assert again.manifest.references == bundles["onnx"].manifest.references
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_any_batch_size_gives_the_same_scores(
    run: Run, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    three = export_run(run, tmp_path / "three", "onnx", batch=3, false_alarm_rate=RATE)
    assert three.batch == 3
    assert three.manifest.outputs[1].shape == (3, 64, 64)
    assert three.manifest.golden == bundles["onnx"].manifest.golden
    assert verify(three).passed


def twisted(factor: float) -> object:
    """A graph that is wrong by a factor, as a broken converter would make it."""
    real = export.to_onnx

    def to_onnx(model: object, batch: int) -> onnx.ModelProto:
        graph = real(model, batch)  # type: ignore[arg-type]
        for node in graph.graph.node:
            for index, name in enumerate(node.output):
                if name == "score":
                    node.output[index] = "straight"
        constant = onnx.numpy_helper.from_array(np.float32([factor]), "factor")
        graph.graph.initializer.append(constant)
        bent = onnx.helper.make_node("Mul", ["straight", "factor"], ["score"], "bend")
        graph.graph.node.append(bent)
        return graph

    return to_onnx


def test_a_flipped_verdict_names_the_image_and_keeps_the_bundle_that_was_there(
    run: Run, bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundles["onnx"].path, tmp_path / "b")
    monkeypatch.setattr(export, "to_onnx", twisted(2.0))
    with pytest.raises(ParityError) as failure:
        export_run(run, tmp_path / "b", false_alarm_rate=RATE, force=True)
    message = str(failure.value)
    assert "no bundle was written" in message
    assert "verdicts flip outside the uncertain band: " in message
    assert "golden/" in message
    assert "PyTorch" in message
    assert Bundle.open(tmp_path / "b").manifest == bundles["onnx"].manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_an_error_beyond_tolerance_leaves_no_bundle_even_without_a_flip(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "to_onnx", twisted(1.0005))
    with pytest.raises(ParityError, match=r"relative score error 5\.\d\de-04 of .* exceeds 0.0001"):
        export_run(run, tmp_path / "b", false_alarm_rate=RATE)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_before_any_work(
    run: Run, bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "model", lambda self: pytest.fail("the model was loaded"))
    with pytest.raises(InputError, match="'coreml' is not one of onnx, openvino, tensorrt"):
        export_run(run, tmp_path / "b", "coreml")
    with pytest.raises(CalibrationError, match="99 good parts are needed"):
        export_run(run, tmp_path / "b", false_alarm_rate=0.01)
    with pytest.raises(InputError, match="replace it with --force"):
        export_run(run, bundles["onnx"].path, false_alarm_rate=RATE)
    with pytest.raises(DataError, match=r"12 of 12 calibration images are not there \(.*--data"):
        export_run(run, tmp_path / "b", false_alarm_rate=RATE, data=tmp_path)


def test_changed_pixels_are_refused(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.copy(tmp_path / "data" / "00.png", tmp_path / "data" / "15.png")
    with pytest.raises(DataError, match=r"15\.png: not the pixels .* calibrated on"):
        export_run(run, tmp_path / "b", false_alarm_rate=RATE, data=tmp_path / "data")


def test_a_run_without_calibration_or_with_a_false_one_is_refused(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    copy = open_run(tmp_path / "run")
    file = copy.path / "calibration.json"
    value = json.loads(file.read_text())
    for image in value["images"]:
        image["score"] *= 1.002
    file.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match=r"the model's score is .* calibrate the run again"):
        export_run(copy, tmp_path / "b", false_alarm_rate=RATE)
    os.unlink(file)
    with pytest.raises(CalibrationError, match="not calibrated"):
        export_run(copy, tmp_path / "b", false_alarm_rate=RATE)
    assert not (tmp_path / "b").exists()


def test_the_reference_must_be_the_run_that_was_exported(
    run: Run, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    other = open_run(tmp_path / "run")
    (other.path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match=r"exported from .* give the run that was exported"):
        run_reference(other, bundles["onnx"])
    (other.path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        run_reference(other, bundles["onnx"])
