"""A verdict for every image, and OK only from a finite score of a complete image."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sanflow import imaging
from sanflow.bundle import Bundle, with_decisions
from sanflow.errors import BundleError, EngineError, InputError
from sanflow.imaging import Roi
from sanflow.runtime import Detector, Engine, Result, open_engine

from .conftest import HEIGHT, WIDTH, MakeBundle, network, noise


class Stub(Engine):
    """An engine for the bundle's shapes that gives one score and one map value to all."""

    name = "stub"

    def __init__(self, like: Engine, score: float = 0.0, heat: float = 0.0) -> None:
        super().__init__("1.0", 1, like.inputs, like.outputs)
        self.graph = like.graph
        self.values = {"score": score, "map": heat}
        self.error: Exception | None = None

    def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if self.error is not None:
            raise self.error
        return {s.name: np.full(s.shape, self.values[s.name], np.float32) for s in self.outputs}

    def _release(self) -> None:
        pass


@pytest.fixture
def stub(bundle: Bundle) -> Stub:
    with open_engine(bundle, threads=1) as engine:
        return Stub(engine)


def same(left: Result, right: Result) -> bool:
    """Equal to the bit."""
    assert left.map is not None
    assert right.map is not None
    return left.score == right.score and left.map.tobytes() == right.map.tobytes()


def test_ng_is_strictly_above_the_threshold(bundle: Bundle) -> None:
    image = noise(1)[0]
    with Detector(bundle, threads=1) as detector:
        score = detector.judge(image).score
    assert score is not None
    below = float(np.nextafter(score, -np.inf))
    for threshold, verdict in ((score, "OK"), (below, "NG")):
        decision = dataclasses.replace(
            bundle.manifest.graph().decision, threshold=threshold, band_low=below, band_high=score
        )
        bundle = with_decisions(bundle, [decision])
        with Detector(bundle, threads=1) as detector:
            result = detector.judge(image)
        assert result.verdict == verdict
        assert result.reason == "score"
        assert result.detail == ""


@pytest.mark.parametrize(
    ("score", "verdict", "uncertain"),
    [(0.9, "OK", False), (1.0, "OK", True), (2.0, "OK", True), (2.1, "NG", True),
     (3.0, "NG", True), (3.1, "NG", False)],
)  # fmt: skip
def test_the_uncertain_band_includes_its_ends(
    make_bundle: MakeBundle, stub: Stub, score: float, verdict: str, uncertain: bool
) -> None:
    decision = dataclasses.replace(
        make_bundle("other").manifest.graph().decision, threshold=2.0, band_low=1.0, band_high=3.0
    )
    stub.values["score"] = score
    banded = make_bundle("banded", decision=decision)
    stub.graph = banded.manifest.graph()
    result = Detector(banded, stub).judge(noise(1)[0])
    assert (result.verdict, result.uncertain) == (verdict, uncertain)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_decides_nothing(
    bundle: Bundle, stub: Stub, score: float
) -> None:
    stub.values["score"] = score
    result = Detector(bundle, stub).judge(noise(1)[0])
    assert result.verdict == "NO-DECISION"
    assert result.reason == "bad_score"
    assert result.score is None
    assert result.map is None
    assert not result.uncertain
    assert str(score) in result.detail


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_map_that_is_not_finite_decides_nothing(make_bundle: MakeBundle, name: str) -> None:
    """OpenVINO's maximum of nothing but NaN is the lowest float: finite, and it would be OK."""
    with Detector(make_bundle(graph=network(nan_on_black=True)), name, threads=1) as detector:
        result = detector.judge(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        assert (result.verdict, result.reason) == ("NO-DECISION", "bad_score")
        assert detector.judge(noise(1)[0]).reason == "score"


def test_one_bad_map_value_is_enough(bundle: Bundle, stub: Stub) -> None:
    class Speckled(Stub):
        def _run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
            found = super()._run(images)
            found["map"][0, 3, 4] = np.nan
            return found

    result = Detector(bundle, Speckled(stub)).judge(noise(1)[0])
    assert (result.verdict, result.reason) == ("NO-DECISION", "bad_score")
    assert result.detail == f"1 of {HEIGHT * WIDTH} map values are not finite"


def test_path_bytes_and_arrays_are_judged_alike(bundle: Bundle, tmp_path: Path) -> None:
    image = np.repeat(noise(1, seed=4)[0, :, :, :1], 3, axis=2)
    path = tmp_path / "part.png"
    imaging.write_png(path, image)
    with Detector(bundle, threads=1) as detector:
        wanted = detector.judge(image)
        alpha = np.dstack([image, np.full((HEIGHT, WIDTH), 7, np.uint8)])
        for given in (
            path,
            str(path),
            path.read_bytes(),
            image[:, :, 0],
            image[:, :, :1],
            alpha,
            image.astype(np.uint16) * 257,
        ):
            assert same(detector.judge(given), wanted)


def test_an_image_goes_the_bundles_pixel_path(make_bundle: MakeBundle) -> None:
    roi = Roi(3, 5, 50, 70)
    bundle = make_bundle(roi=roi)
    image = np.random.default_rng(0).integers(0, 256, (90, 61, 3)).astype(np.uint8)
    with Detector(bundle, threads=1) as detector:
        found = detector.judge(image)
        (wanted,) = detector.judge_inputs([bundle.pixel_path(image)])
        assert same(found, wanted)
        small = detector.judge(image[:60])
    assert (small.verdict, small.reason) == ("NO-DECISION", "bad_image")
    assert "region of interest" in small.detail


def test_a_camera_in_another_mode_decides_nothing(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(original=(48, 64))
    with Detector(bundle, threads=1) as detector:
        assert detector.judge(np.zeros((48, 64, 3), np.uint8)).verdict != "NO-DECISION"
        other = detector.judge(np.zeros((48, 48, 3), np.uint8))
    assert (other.verdict, other.reason) == ("NO-DECISION", "bad_image")
    assert other.detail.startswith("the picture is 48x48 (width x height), the model learned")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no/such/file.png", "no/such/file.png: cannot be opened"),
        (b"", "empty"),
        (b"hello, world", "not an image"),
        (np.zeros((5, 5, 3), np.float32), "got float32"),
        (np.zeros((5, 5, 2), np.uint8), "got (5, 5, 2)"),
        (np.zeros((0, 5, 3), np.uint8), "got (0, 5, 3)"),
        (None, "given NoneType, expected a path, a file's bytes or a NumPy array"),
        (7, "given int"),
    ],
)
def test_no_usable_image_is_no_decision(bundle: Bundle, given: Any, said: str) -> None:
    with Detector(bundle, threads=1) as detector:
        result = detector.judge(given)
    assert (result.verdict, result.reason) == ("NO-DECISION", "bad_image")
    assert said in result.detail
    assert result.score is None
    assert result.map is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), data=st.binary(max_size=40), keep=st.booleans())
def test_no_bytes_raise(bundle: Bundle, stub: Stub, cut: int, data: bytes, keep: bool) -> None:
    """Whatever a camera or a disk delivers, there is a verdict on it."""
    png = imaging.encode_png(noise(1)[0])[:cut] if keep else b""
    assert Detector(bundle, stub).judge(png + data).verdict == "NO-DECISION"


def test_an_engine_that_fails_is_no_decision_for_the_whole_batch(
    make_bundle: MakeBundle,
) -> None:
    bundle = make_bundle(batch=2)
    with open_engine(bundle, threads=1) as engine:
        stub = Stub(engine)
    stub.error = RuntimeError("device lost")
    results = Detector(bundle, stub).judge_many(list(noise(3)))
    assert [r.verdict for r in results] == ["NO-DECISION"] * 3
    assert {r.reason for r in results} == {"engine_error"}
    assert "device lost" in results[0].detail


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_many_are_judged_as_one_by_one(make_bundle: MakeBundle, name: str) -> None:
    """Seven images through a graph for four, broken ones among them, in their order."""
    images: list[Any] = list(noise(5))
    given = [b"", images[0], images[1], b"x", images[2], images[3], images[4]]
    with Detector(make_bundle("one"), name, threads=1) as one:
        alone = [one.judge(image) for image in given]
    with Detector(make_bundle("four", batch=4), name, threads=2) as four:
        together = four.judge_many(given)
        assert four.judge_many([]) == []
    assert [r.verdict for r in together] == [r.verdict for r in alone]
    for left, right in zip(together, alone, strict=True):
        assert left.score == right.score
        assert right.map is None or same(left, right)
    assert len({r.score for r in together}) == 6


def test_only_inputs_that_the_pixel_path_can_make_are_accepted(bundle: Bundle) -> None:
    with Detector(bundle, threads=1) as detector:
        for bad in (
            np.zeros((HEIGHT, WIDTH, 3), np.uint16),
            np.zeros((1, 1, 3), np.uint8),
            np.zeros((1, HEIGHT, WIDTH, 3), np.uint8),
        ):
            with pytest.raises(InputError, match=rf"expected uint8 \({HEIGHT}, {WIDTH}, 3\)"):
                list(detector.judge_inputs([bad]))


def test_it_closes_only_the_engine_that_it_opened(bundle: Bundle) -> None:
    image = noise(1)[0]
    with open_engine(bundle, threads=1) as engine:
        with Detector(bundle, engine) as detector:
            detector.judge(image)
        assert engine.infer(image[None]).score.shape == (1,)
    with Detector(bundle, threads=1) as detector:
        pass
    with pytest.raises(EngineError, match="closed"):
        detector.engine.infer(image[None])
    assert detector.judge(image).reason == "engine_error"


def test_a_path_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Detector(tmp_path)
