"""CLS-CNF's stages: what learns when, what a stop costs, and how the maps' weight is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sanflow.config import HybridConfig, RunConfig
from sanflow.data.config import DataConfig, TextureConfig
from sanflow.data.layout import open_dataset
from sanflow.errors import ConfigError, DataError, SanflowError
from sanflow.imaging import PixelPath, write_png
from sanflow.model.cls_cnf import CLSCNF
from sanflow.model.weights import WeightsInfo
from sanflow.run import MODEL, DataRecord, Run, RunRecord
from sanflow.training import hybrid
from sanflow.training.log import Status
from sanflow.training.presets import load_config
from sanflow.training.train import train


@pytest.fixture
def config(weights: Path) -> RunConfig:
    """Two passes of the decoder, one of both, one epoch of the flows; three steps each."""
    return load_config(
        "cls-cnf-edge",
        None,
        {
            "model.extractor": "mobilenet_v2",
            "model.taps": (4, 8),
            "model.height": 64,
            "model.width": 64,
            "model.position_dim": 16,
            "model.blocks": 2,
            "hybrid.warmup_epochs": 2,
            "hybrid.joint_epochs": 1,
            "hybrid.validation": 4,
            "hybrid.textures.threshold": 0.2,
            "optim.epochs": 1,
            "optim.precision": "fp32",
            "weights": str(weights),
        },
    )


def record(config: RunConfig) -> RunRecord:
    return RunRecord(config, DataRecord("parts", "mvtec", "0" * 64, {}), WeightsInfo("none"))


def silent(status: Status) -> None:
    pass


class Stopped(Exception):
    """What a test ends a training with."""


def stop_at(phase: str, done: int) -> Callable[[Status], None]:
    def report(status: Status) -> None:
        if (status.phase, status.done) == (phase, done):
            raise Stopped

    return report


def state(model: CLSCNF, prefix: str) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if k.startswith(prefix)}


def learn(
    out: Path, parts: Path, config: RunConfig, report: Callable[[Status], None] = silent
) -> CLSCNF:
    """A model after the classifier's stage alone."""
    model = CLSCNF(config.model)
    pixels = PixelPath(config.model.height, config.model.width, config.data.roi)
    hybrid.learn_defects(out, model, open_dataset(parts, DataConfig()), pixels, config, report)
    return model


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def test_the_decoder_learns_first_then_the_extractor_with_it(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    new = CLSCNF(config.model)
    decoder, extractor = state(new, "decoder."), state(new, "extractor.")
    flows = state(new, "flows.")
    for epochs, learns in ((replace(config.hybrid, joint_epochs=0), False), (config.hybrid, True)):
        out = tmp_path / str(learns)
        out.mkdir()
        model = learn(out, parts, replace(config, hybrid=epochs))
        moved = changed(extractor, state(model, "extractor."))
        assert bool(moved) == learns
        # BatchNorms of the extractor keep their statistics, those of the decoder do not.
        assert not any("running" in name for name in moved)
        assert any("running" in n for n in changed(decoder, state(model, "decoder.")))
        assert not changed(flows, state(model, "flows."))
        assert not any(p.requires_grad for n, p in model.named_parameters() if "flows" not in n)


def test_its_loss_falls(parts: Path, tmp_path: Path, config: RunConfig) -> None:
    losses: list[float] = []

    def report(status: Status) -> None:
        assert status.loss is not None
        losses.append(status.loss)

    more = replace(config.hybrid, warmup_epochs=7, learning_rate=3e-3)
    learn(tmp_path, parts, replace(config, hybrid=more), report)
    assert len(losses) == 8 * 3
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:3])


def test_stopped_in_any_stage_it_ends_with_the_same_bits(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    whole = train(parts, tmp_path / "whole", config, device="cpu")
    out = tmp_path / "stopped"
    for moment in (("defects", 2), ("defects", 5), ("defects", 8), ("train", 2)):
        with pytest.raises(Stopped):
            train(parts, out, config, resume=True, device="cpu", progress=stop_at(*moment))
        assert (out / hybrid.KEPT).is_file() == (moment[0] == "defects" and moment[1] > 3)
    seen: list[str] = []
    train(parts, out, config, resume=True, device="cpu", progress=lambda s: seen.append(s.phase))
    assert "defects" not in seen
    assert (out / MODEL).read_bytes() == (whole.path / MODEL).read_bytes()
    assert not (out / hybrid.KEPT).exists()
    model = whole.model()
    assert isinstance(model, CLSCNF)
    assert model.taught == 1
    assert any(abs(float(model.map_weight) - weight) < 1e-6 for weight in hybrid.WEIGHTS)


@pytest.mark.parametrize(("classifier", "best"), [("perfect", 1.0), ("blind", 0.05)])
def test_the_weight_follows_what_the_classifier_is_worth(
    classifier: str,
    best: float,
    parts: Path,
    tmp_path: Path,
    config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A classifier that knows gets the largest weight; one that guesses, the smallest."""
    dataset = open_dataset(parts, DataConfig())
    run = Run(tmp_path, record(config))
    model = CLSCNF(config.model)
    good = torch.from_numpy(
        np.stack([run.pixel_path.load(sample.path) for sample in dataset.train])
    )
    rng = torch.Generator().manual_seed(0)

    def maps(images: Tensor) -> tuple[Tensor, Tensor]:
        """Flows that see the change through noise, a classifier that sees it or nothing."""
        gaps = (images[:, None].float() - good[None].float()).abs().amax(dim=4)
        truth = (gaps[torch.arange(len(images)), gaps.mean(dim=(2, 3)).argmin(dim=1)] > 0).float()
        flows = truth + torch.randn(truth.shape, generator=rng)
        return flows, truth if classifier == "perfect" else torch.rand(truth.shape, generator=rng)

    monkeypatch.setattr(model, "maps", maps)
    monkeypatch.setattr(model, "fit_level_max", list)
    hybrid.choose_weight(run, model, dataset, silent)
    assert float(model.map_weight) == pytest.approx(best)


def test_no_defect_no_weight(parts: Path, tmp_path: Path, config: RunConfig) -> None:
    none = replace(config.hybrid, textures=TextureConfig(share=0.0))
    run = Run(tmp_path, record(replace(config, hybrid=none)))
    with pytest.raises(SanflowError, match="none of 4 parts got a textured defect"):
        hybrid.choose_weight(run, CLSCNF(config.model), open_dataset(parts, DataConfig()), silent)


def test_a_missing_texture_folder_is_named_before_anything_is_written(
    parts: Path, tmp_path: Path, config: RunConfig
) -> None:
    out = tmp_path / "run"
    textures = TextureConfig(folder=str(tmp_path / "nowhere"))
    wrong = replace(config, hybrid=replace(config.hybrid, textures=textures))
    with pytest.raises(DataError, match="nowhere: no such folder of textures"):
        train(parts, out, wrong, device="cpu")
    assert not out.exists()


def test_textures_of_a_folder_are_used(parts: Path, tmp_path: Path, config: RunConfig) -> None:
    folder = tmp_path / "textures"
    folder.mkdir()
    write_png(folder / "a.png", np.full((40, 30, 3), 200, np.uint8))
    models = []
    for own in (0.0, 1.0):
        textures = replace(config.hybrid.textures, folder=str(folder), own=own)
        out = tmp_path / str(own)
        out.mkdir()
        models.append(
            learn(out, parts, replace(config, hybrid=replace(config.hybrid, textures=textures)))
        )
    assert changed(*(state(model, "decoder.") for model in models))


def test_other_methods_have_no_classifier(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="cflow has no classifier"):
        load_config("cflow", None, {"hybrid.batch": 4})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_epochs": 0, "joint_epochs": 0}, "at least one pass"),
        ({"joint_epochs": -1}, "not be negative"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridConfig(**changes)  # type: ignore[arg-type]
