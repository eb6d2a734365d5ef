"""The run path over the fake driver: the bits of ONNX Runtime, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest

from sanflow.runtime import open_engine
from sanflow.runtime.ort import OrtEngine

from ..conftest import network, noise
from .conftest import VERSIONS, Trt


def expected(images: Any, batch: int = 1) -> Any:
    with OrtEngine(network(batch).SerializeToString(), 1) as plain:
        return plain.infer(images)


@pytest.mark.parametrize("version", VERSIONS)
def test_bits_are_those_of_onnx_runtime(standin: Any, trt_bundle: Trt, version: str) -> None:
    standin(version)
    images = noise(3)
    with open_engine(trt_bundle(), "tensorrt") as engine:
        assert engine.version == version
        for image in images:
            found, wanted = engine.infer(image[None]), expected(image[None])
            assert found.map.tobytes() == wanted.map.tobytes()
            assert found.score.tobytes() == wanted.score.tobytes()
