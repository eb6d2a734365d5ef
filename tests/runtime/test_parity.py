"""Verifying a bundle: goldens, the user's images, stored references, and every way to fail."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sanflow import imaging
from sanflow.bundle import Bundle, Decision, manifest, with_decisions, write_bundle
from sanflow.bundle.contents import PAGE_HEAD
from sanflow.errors import EngineError, InputError
from sanflow.imaging import PixelPath, Roi, pixel_sha256
from sanflow.runtime import open_engine, parity
from sanflow.runtime.parity import replay_goldens, verify

SIDE, HASH = 8, "0" * 64
PIXELS = PixelPath(SIDE, SIDE, Roi(1, 0, 12, 11))


def truth(image: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
    """What "PyTorch" says: the brightness of the red channel, and its largest value."""
    heat = image[:, :, 0].astype(np.float32) / 255
    return float(heat.max()), heat


def graph(gain: float) -> bytes:
    """The same as ONNX, off by a gain."""
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        node("Gather", ["float", "zero"], ["red"], "red", axis=3),
        node("Mul", ["red", "gain"], ["map"], "scale"),
        node("ReduceMax", ["map"], ["score"], "max", axes=[1, 2], keepdims=0),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.float32(gain / 255), "gain"),
        onnx.numpy_helper.from_array(np.array(0), "zero"),
    ]
    made = helper.make_graph(
        nodes,
        "sanflow",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, SIDE, SIDE]),
        ],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def photographs(folder: Path, count: int = 6) -> list[Path]:
    """Images of odd size, each brighter than the last."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    for index in range(count):
        image = rng.integers(0, 60 + 35 * index, (11, 13, 3)).astype(np.uint8)
        imaging.write_png(folder / f"{index}.png", image)
    return sorted(folder.iterdir())


def make_bundle(
    path: Path, images: list[Path], gain: float = 1.0, precision: manifest.Precision = "fp32"
) -> Bundle:
    """A bundle whose goldens and references say `truth`, and whose graph has this gain."""
    m = manifest
    rng = np.random.default_rng(1)
    goldens = rng.integers(0, 250, (8, SIDE, SIDE, 3)).astype(np.uint8)
    judged = [truth(golden) for golden in goldens]
    maps = io.BytesIO()
    np.save(maps, np.stack([heat for _, heat in judged]))
    known = {pixel_sha256(PIXELS.load(p)): truth(PIXELS.load(p))[0] for p in images[:4]}
    draft = m.Manifest(
        schema=m.SCHEMA,
        sanflow="0.1.0",
        created="2026-01-31T12:00:00Z",
        target="onnx",
        graphs=(
            m.Graph(
                precision=precision,
                regions={"extractor": precision, "likelihood": "fp32"},
                activation=None,
                files=m.graph_files("onnx", precision),
                scores=tuple(sorted(known.values())),
                part_scores=tuple(sorted(known.values())),
                decision=Decision(0.6, 0.2, 0.59, 0.61, 0.0, 1.0),
                tolerances=m.Tolerances(1e-4, 1e-4, 1e-3),
            ),
        ),
        model=m.ModelInfo(
            method="sanflow",
            extractor="resnet18",
            taps=(8,),
            pools=(),
            padding="zeros",
            feature_scale="none",
            fusion="likelihood",
            image_score="max",
            weights="none",
            weights_sha256=None,
            parameters=1,
            checkpoint_sha256=HASH,
        ),
        data=m.DataInfo(HASH, 1, 4, 4),
        input=m.Tensor("image", "uint8", (1, SIDE, SIDE, 3)),
        outputs=(m.Tensor("score", "float32", (1,)), m.Tensor("map", "float32", (1, SIDE, SIDE))),
        pixels=PIXELS,
        calibration=m.CalibrationInfo((0.0,)),
        golden=tuple(
            m.GoldenEntry(m.golden_name(i), score, "good") for i, (score, _) in enumerate(judged)
        ),
        references=known,
        files={},
        digest="",
    )
    contents = {m.golden_name(i): imaging.encode_png(golden) for i, golden in enumerate(goldens)}
    contents |= {
        m.MAPS: maps.getvalue(),
        m.REPORT: PAGE_HEAD.encode(),
        draft.graphs[0].files[0]: graph(gain),
    }
    return write_bundle(path, draft, contents)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """The user's own photographs; the first four are the calibration images."""
    return photographs(tmp_path / "photographs")


@pytest.fixture
def bundle(tmp_path: Path, images: list[Path]) -> Bundle:
    """A bundle that keeps its word."""
    return make_bundle(tmp_path / "bundle", images)


def test_goldens_replay_on_every_engine(bundle: Bundle) -> None:
    report = verify(bundle)
    assert report.passed, report.text()
    assert [(c.engine, c.source, c.images) for c in report.comparisons] == [
        ("onnxruntime", "golden", 8),
        ("openvino", "golden", 8),
    ]
    assert report.digest == bundle.manifest.digest
    assert report.text() == "16 comparisons, all within tolerance, no verdict flips"


def test_one_engine_can_be_asked_for(bundle: Bundle) -> None:
    assert [c.engine for c in verify(bundle, "openvino").comparisons] == ["openvino"]
    with pytest.raises(InputError, match="unknown engine 'openvin'"):
        verify(bundle, "openvin")


def test_own_images_with_pytorch_go_through_the_bundles_pixel_path(
    bundle: Bundle, images: list[Path]
) -> None:
    seen: list[tuple[int, ...]] = []

    def reference(image: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        seen.append(image.shape)
        return truth(image)

    report = verify(bundle, "onnxruntime", images, reference)
    assert report.passed
    own = report.comparisons[1]
    assert (own.source, own.images) == ("images", 6)
    assert own.map_absolute is not None
    assert own.rank_correlation == pytest.approx(1)
    assert seen == [(SIDE, SIDE, 3)] * 6


def test_own_images_without_pytorch_use_the_stored_scores(
    bundle: Bundle, images: list[Path]
) -> None:
    """Found by their pixels: a copy under another name and format is known too."""
    again = images[0].parent / "again.bmp"
    import cv2

    cv2.imwrite(str(again), cv2.imread(str(images[0])))
    report = verify(bundle, "onnxruntime", [*images, again])
    own = report.comparisons[1]
    assert own.images == 5
    assert own.map_absolute is None
    assert report.passed
    assert sorted(report.skipped) == [f"{p}: no stored PyTorch score" for p in images[4:]]


def test_images_that_cannot_be_compared_are_named(bundle: Bundle, images: list[Path]) -> None:
    images[1].write_bytes(b"")
    report = verify(bundle, None, images, truth)
    assert [c.images for c in report.comparisons] == [8, 5, 8, 5]
    assert len(report.skipped) == 1
    assert str(images[1]) in report.skipped[0]
    with pytest.raises(InputError, match=r"none of the 2 images can be compared: .*give the run"):
        verify(bundle, "onnxruntime", images[4:])
    with pytest.raises(InputError, match=r"none of the 1 images can be compared: .*copy it again$"):
        verify(bundle, "onnxruntime", images[1:2], truth)


def test_a_wrong_graph_fails_on_all_counts(tmp_path: Path, images: list[Path]) -> None:
    wrong = make_bundle(tmp_path / "wrong", images, gain=1.01)
    report = verify(wrong, "onnxruntime", images, truth)
    assert not report.passed
    golden, own = report.comparisons
    assert golden.score_relative.max == pytest.approx(0.01, rel=1e-3)
    assert golden.map_absolute is not None
    assert golden.map_absolute.max == pytest.approx(0.01 * 249 / 255, rel=1e-3)
    assert own.rank_correlation == pytest.approx(1)
    assert "onnxruntime" in report.text()
    assert "relative score error 1.00e-02" in report.text()


@pytest.mark.parametrize(("precision", "passes"), [("fp16", True), ("fp32", False)])
def test_new_images_beyond_what_export_measured_fail_in_fp32_only(
    tmp_path: Path, images: list[Path], precision: manifest.Precision, passes: bool
) -> None:
    """The first four images are the bundle's calibration images, the other two are new."""
    lowered = make_bundle(tmp_path / "lowered", images, precision=precision)
    known = set(lowered.manifest.references)

    def moved(new: bool) -> parity.Reference:
        def reference(image: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
            score, heat = truth(image)
            return score * (1.001 if (pixel_sha256(image) not in known) is new else 1), heat

        return reference

    report = verify(lowered, "onnxruntime", images, moved(new=True))
    assert report.passed is passes
    assert report.comparisons[1].beyond == (2 if passes else 0)
    words = "14 comparisons, all but 2 new images within tolerance, no verdict flips"
    assert (report.text() == words) is passes
    assert not verify(lowered, "onnxruntime", images, moved(new=False)).passed


def test_verdict_flips_depend_on_the_decision(tmp_path: Path, images: list[Path]) -> None:
    wrong = make_bundle(tmp_path / "wrong", images, gain=1.01)
    score = wrong.manifest.golden[0].score
    threshold = score * 1.005
    narrow = with_decisions(wrong, [Decision(threshold, None, threshold, threshold, 0, 1)])
    flips = verify(narrow, "onnxruntime").comparisons[0].flips_outside
    assert "golden/000.png" in {flip.image for flip in flips}
    wide = with_decisions(wrong, [Decision(threshold, None, score * 0.9, threshold, 0, 1)])
    comparison = verify(wide, "onnxruntime").comparisons[0]
    assert not comparison.flips_outside
    assert "golden/000.png" in {flip.image for flip in comparison.flips}


def test_the_report_is_json_and_a_table(tmp_path: Path, images: list[Path]) -> None:
    wrong = make_bundle(tmp_path / "wrong", images, gain=float("inf"))
    report = verify(wrong, "onnxruntime", images[:1], truth)
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["passed"] is False
    assert value["comparisons"][0]["passed"] is False
    assert value["comparisons"][0]["score_relative"]["max"] is None
    assert value["comparisons"][0]["engine"] == "onnxruntime"
    rows = report.rows()
    assert {len(row) for row in rows} == {len(report.columns())}
    assert rows[0][-1] == "FAIL"


def test_progress_counts_every_comparison_once(bundle: Bundle, images: list[Path]) -> None:
    images[1].write_bytes(b"")
    seen: list[tuple[int, int]] = []
    verify(bundle, None, images, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, 29))
    assert {total for _, total in seen} == {28}


def test_an_open_engine_replays_goldens(bundle: Bundle) -> None:
    with open_engine(bundle, "onnxruntime") as engine:
        assert replay_goldens(engine, bundle).passed


def test_no_engine_at_all_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "available_engines", lambda target: ())
    monkeypatch.setattr("sanflow.runtime.registry.installed", lambda package: False)
    with pytest.raises(EngineError, match="no engine for this onnx bundle"):
        verify(bundle)
