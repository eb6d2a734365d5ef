"""The way of real photographs: odd sizes, real weights, both targets, two engines, no flip."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sanflow.calibration.calibrate import calibrate
from sanflow.config import RunConfig
from sanflow.export.export import export_run
from sanflow.export.reference import run_reference
from sanflow.model.config import SanflowConfig
from sanflow.model.sanflow import SANFlow
from sanflow.model.weights import load_weights
from sanflow.run import DataRecord, Run, RunRecord, write_run
from sanflow.runtime.parity import verify

pytestmark = [pytest.mark.real_parts, pytest.mark.slow]

EXTRACTORS = {
    "resnet18": ("resnet18_imagenet_l123.safetensors", "3x3"),
    "resnet50": ("resnet50v1_imagenet_l123.safetensors", "1x1"),
    "mobilenet_v2": ("mobilenet_v2_imagenet.safetensors", "3x3"),
}


def tiles_run(shared: Path, out: Path, extractor: str) -> Run:
    """A calibrated, untrained run on magnetic tiles."""
    file, stride_on = EXTRACTORS[extractor]
    root = shared / "data" / "mtd"
    entries = [
        (str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted((root / "train" / "good").iterdir())[:200:8]
    ]
    model_config = SanflowConfig(
        extractor=extractor,
        stride_on=stride_on,  # type: ignore[arg-type]
        taps=(4, 8, 16),
        feature_scale="standard",
        height=128,
        width=128,
        position_dim=32,
        blocks=2,
        head_width=16,
    )
    model = SANFlow(model_config).eval()
    info = load_weights(model.extractor, shared / "weights" / file)
    roles = {"train": tuple(entries[:12]), "calibrate": tuple(entries[12:]), "test": ()}
    record = RunRecord(
        config=RunConfig(model=model_config, weights=info.source),
        data=DataRecord(str(root), "mvtec", "0" * 64, roles),
        weights=info,
    )
    run = write_run(out, record, model)
    calibrate(run)
    return run


@pytest.mark.parametrize(
    ("extractor", "target"),
    [("resnet18", "openvino"), ("resnet50", "onnx"), ("mobilenet_v2", "onnx")],
)
def test_engines_keep_their_word_on_tiles_of_their_own_sizes(
    shared: Path, tmp_path: Path, extractor: str, target: str
) -> None:
    """Relative score error <= 1e-4, map error <= 1e-3 and no flip, on defects too."""
    run = tiles_run(shared, tmp_path / "run", extractor)
    images = sorted((shared / "data" / "mtd" / "test").glob("*/*"))[::16]
    assert len(images) >= 30
    bundle = export_run(run, tmp_path / target, target, false_alarm_rate=0.1)
    report = verify(bundle, data=images, reference=run_reference(run, bundle))
    assert report.passed, report.text()
    for comparison in report.comparisons:
        assert comparison.map_absolute is not None
        assert comparison.score_relative.max <= 1e-4
        assert comparison.map_absolute.max <= 1e-3
        assert not comparison.flips_outside
