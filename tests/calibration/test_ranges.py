"""Ranges against the values themselves, on a graph small enough to know every one."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sanflow.calibration.ranges import BINS, LEVELS, Method, derive, histograms, observe
from sanflow.errors import InputError

FACTOR = np.array([1.0, -0.5, 0.0], np.float32)


def graph(batch: int = 1) -> onnx.ModelProto:
    """image uint8 (N, 16, 16, 3) -> value: its channels times FACTOR, and their Relu."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["maps"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["maps", "factor"], ["value"], "mul"),
        helper.make_node("Relu", ["value"], ["positive"], "relu"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, 16, 16, 3])
    result = helper.make_tensor_value_info("positive", TensorProto.FLOAT, [batch, 3, 16, 16])
    factor = numpy_helper.from_array(FACTOR.reshape(3, 1, 1), "factor")
    made = helper.make_graph(nodes, "test", [image], [result], [factor])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int = 6, outlier: bool = False) -> list[NDArray[np.uint8]]:
    """Smooth grey values, half of them nearly 0; the last image may hold one bright pixel."""
    rng = np.random.default_rng(3)
    made = [rng.exponential(6, (16, 16, 3)).clip(0, 60).astype(np.uint8) for _ in range(count)]
    if outlier:
        made[-1][0, 0] = 255
    return made


def values(parts: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """What the graph's `value` is on those images, (n, 16, 16, 3)."""
    return np.stack(parts) * FACTOR.astype(np.float64)


def quantised(x: NDArray[np.float64], maximum: float) -> NDArray[np.float64]:
    """Rounded to int8 of that range."""
    step = maximum / LEVELS
    return np.clip(np.round(x / step), -LEVELS, LEVELS) * step


def test_minmax_and_means_are_those_of_the_values() -> None:
    parts = images(outlier=True)
    found = observe(graph(), parts, ["value", "positive"], "minmax")
    assert found.maximum("value") == pytest.approx(255)
    np.testing.assert_allclose(found.mean("value"), values(parts).mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        found.mean("positive"), np.maximum(values(parts), 0).mean(axis=(0, 1, 2)), rtol=1e-5
    )
    assert (found.method, found.count) == ("minmax", 6)


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_a_percentile_is_exceeded_by_the_rest(share: float) -> None:
    parts = images(30)
    found = observe(graph(), parts, ["value"], "percentile", share)
    wanted = np.quantile(np.abs(values(parts)), share, method="inverted_cdf")
    assert found.maximum("value") == pytest.approx(wanted, abs=1.01 * 60 / BINS)


@pytest.mark.parametrize("outlier", [False, True])
def test_mse_loses_no_more_than_any_other_range(outlier: bool) -> None:
    parts = images(outlier=outlier)
    x = values(parts)
    found = observe(graph(), parts, ["value"], "mse").maximum("value")
    least = min(np.square(x - quantised(x, m)).mean() for m in np.linspace(5, np.abs(x).max(), 400))
    assert np.square(x - quantised(x, found)).mean() <= 1.1 * least + 1e-4


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_one_bright_pixel_does_not_set_the_range(method: Method) -> None:
    found = observe(graph(), images(60, outlier=True), ["value"], method, 0.999)
    assert 5 < found.maximum("value") < 0.95 * 255


def test_growth_says_whether_the_last_images_added_anything() -> None:
    parts = images(8, outlier=True)
    largest = np.abs(values(parts)).max(axis=(1, 2, 3))
    grew = observe(graph(), parts, ["value"], "minmax").growth
    assert grew == pytest.approx(largest.max() / largest[:4].max() - 1, rel=1e-5)
    assert observe(graph(), parts[::-1], ["value"], "minmax").growth == 0


def test_a_batch_is_filled_with_one_image() -> None:
    parts = images()
    assert observe(graph(3), parts, ["value"], "mse") == observe(graph(), parts, ["value"], "mse")


def test_methods_share_one_pass_and_ranges_are_json() -> None:
    seen = histograms(graph(), images(), ["value"])
    assert int(seen.counts["value"].sum()) == 6 * 16 * 16 * 3
    found = derive(seen, "entropy")
    assert json.loads(json.dumps(found.to_json()))["maxima"]["value"] == found.maximum("value")


def test_a_value_that_is_always_zero_has_range_zero() -> None:
    black = [np.zeros((16, 16, 3), np.uint8)] * 2
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert observe(graph(), black, ["value"], method).maximum("value") == 0


def test_what_cannot_be_observed_is_refused() -> None:
    with pytest.raises(InputError, match="no value 'other'"):
        observe(graph(), images(), ["other"], "minmax")
    with pytest.raises(InputError, match="at least one image"):
        observe(graph(), [], ["value"], "minmax")
    with pytest.raises(InputError, match="not an iterator"):
        observe(graph(), iter(images()), ["value"], "minmax")
    with pytest.raises(InputError, match="'median' is not one of"):
        observe(graph(), images(), ["value"], "median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no range was observed for 'positive'"):
        observe(graph(), images(), ["value"], "minmax").maximum("positive")
