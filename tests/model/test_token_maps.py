"""DeiT and CaiT as FastFlow's extractors: timm's own intermediate maps, and timm's weights."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from sanflow.errors import InputError
from sanflow.export.graph import to_onnx
from sanflow.model.fastflow import FastFlow
from sanflow.model.flow_config import TRANSFORMER_BLOCKS, FastflowConfig
from sanflow.model.token_maps import build_token_map
from sanflow.model.weights import load_weights

timm = pytest.importorskip("timm", reason="timm has the transformers: pip install timm")

SMALL = ["deit_tiny_distilled_patch16_224", "cait_xxs24_224"]


def timms(name: str, size: tuple[int, int] = (64, 96)) -> Any:
    torch.manual_seed(3)
    return timm.create_model(name, pretrained=False, img_size=size, num_classes=0).eval()


def config_of(name: str, **changes: Any) -> FastflowConfig:
    values = {"taps": (16,), "height": 64, "width": 96, "blocks": 2, "layer_norm": False, **changes}
    return FastflowConfig(extractor=name, **values)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("form", ["plain", "model", "module"])
def test_maps_are_timms_own(name: str, form: str, tmp_path: Path) -> None:
    """The last kept block behind the final norm, from any of the spellings of a weights file."""
    truth = timms(name)
    state = truth.state_dict()
    if form == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save(state if form == "plain" else {"model": state}, tmp_path / "weights.pth")
    extractor = build_token_map(name, 64, 96)
    info = load_weights(extractor, tmp_path / "weights.pth")
    assert info.unused or TRANSFORMER_BLOCKS[name] == len(truth.blocks)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        (mine,) = extractor(x)
        (theirs,) = truth.forward_intermediates(
            x, indices=[TRANSFORMER_BLOCKS[name] - 1], norm=True, intermediates_only=True
        )
    assert mine.shape == (2, 192, 4, 6)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_positions_of_another_size_are_resized(name: str, tmp_path: Path) -> None:
    torch.save(timms(name, (96, 96)).state_dict(), tmp_path / "weights.pth")
    extractor = build_token_map(name, 64, 128)
    load_weights(extractor, tmp_path / "weights.pth")
    (maps,) = extractor(torch.randn(1, 3, 64, 128))
    assert maps.shape == (1, 192, 4, 8)
    assert maps.isfinite().all()


def test_positions_are_resized_by_their_grid_not_by_their_number() -> None:
    """2 x 8 cells are as many as 4 x 4, and in other places."""
    extractor = build_token_map(SMALL[1], 32, 128)
    positions = torch.randn(1, 16, 192)
    adapted = extractor.adapt({"pos_embed": positions})["embed.pos_embed"]
    assert adapted.shape == (1, 16, 192)
    assert not torch.allclose(adapted, positions, atol=0.1)


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_is_the_model(name: str) -> None:
    model = FastFlow(config_of(name)).eval()
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        score, heat = model(images)
    session = onnxruntime.InferenceSession(
        to_onnx(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    mine, theirs = session.run(["score", "map"], {"image": images.numpy()})
    np.testing.assert_allclose(mine, score, rtol=1e-4)
    np.testing.assert_allclose(theirs, heat, atol=1e-4)
    assert not any(p.requires_grad for p in model.extractor.parameters())


def test_other_taps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has one map: taps \(8, 16\) must be \(16,\)"):
        config_of(SMALL[0], taps=(8, 16))


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *given: Any, **more: Any) -> Any:
        if name == "timm":
            raise ModuleNotFoundError(name="timm")
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match="pip install timm"):
        build_token_map(SMALL[0], 64, 64)


def test_its_own_weights_have_an_address() -> None:
    assert build_token_map(SMALL[0], 64, 64).weights_url().endswith(".pth")


@pytest.mark.slow
def test_the_published_size_of_deit() -> None:
    """DeiT-384: 20 steps of 768 channels, of which every other is 1x1 (methods 4)."""
    from sanflow.training.presets import preset

    config = preset("fastflow-deit").model
    assert isinstance(config, FastflowConfig)
    with torch.device("meta"):
        model = FastFlow(config)
    subnets = [p for n, p in model.flows.named_parameters() if n.endswith("weight")]
    positions = model.sizes[0][0] * model.sizes[0][1]
    assert sum(p.numel() for p in subnets) * positions / 1e9 == pytest.approx(4.048, abs=5e-4)
