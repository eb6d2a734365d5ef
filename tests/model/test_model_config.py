"""What a model configuration refuses, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from sanflow.model.config import SanflowConfig


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"extractor": "resnet19"}, "'resnet19' is not one of resnet18"),
        ({"taps": ()}, "must be strides from 4, 8, 16, 32"),
        ({"taps": (16, 8)}, "fine to coarse"),
        ({"taps": (8, 12)}, "must be strides"),
        ({"height": 250}, "250x256 must be a multiple of 32"),
        ({"height": 32, "width": 64}, "32x64 is below 64"),
        ({"stride_on": "1x1", "extractor": "resnet18"}, "'1x1' is for resnet50"),
        ({"position_dim": 10}, "position_dim 10 must be a positive multiple of 4"),
        ({"smooth": 2}, "smooth 2 must be odd"),
        ({"blocks": 0}, "blocks, clamp and head_width must be positive"),
        ({"top_fraction": 0.0}, "top_fraction 0.0"),
        (
            {"image_score": "top", "height": 640, "width": 640},
            "is 4096 values; TensorRT sorts at most 3840: use a top_fraction below 0.0094",
        ),
        ({"mean_margin": 0.0}, "mean_margin 0.0 must be positive"),
        ({"prior_variance": 0.0}, "both variances positive"),
    ],
)
def test_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SanflowConfig(**fields)


def test_defaults_are_the_papers() -> None:
    config = SanflowConfig()
    assert (config.extractor, config.taps, config.padding) == (
        "wide_resnet50_2",
        (8, 16, 32),
        "reflect",
    )
    assert (config.position_dim, config.blocks, config.clamp) == (512, 8, 1.9)
    assert (config.prior_window, config.prior_variance, config.max_variance) == (11, 0.1, 5.0)
