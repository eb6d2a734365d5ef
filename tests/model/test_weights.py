"""Weights from files of both kinds, partial ones, and what is refused with which words."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision.models as zoo
from safetensors.torch import save_file

from sanflow.errors import InputError
from sanflow.model.extractor import Extractor, build_extractor
from sanflow.model.weights import WeightsInfo, load_weights


def extractor_of(name: str = "resnet18") -> Extractor:
    return build_extractor(name, (4, 8))


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    """A whole network's state in torchvision's names."""
    torch.manual_seed(0)
    return zoo.resnet18().state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_file_fills_the_extractor(
    suffix: str, tmp_path: Path, resnet: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(resnet, path)
    else:
        torch.save(resnet, path)
    extractor = extractor_of()
    info = load_weights(extractor, path)
    for key, value in extractor.state_dict().items():
        assert torch.equal(value, resnet[key.removeprefix("body.")]), key
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert info == WeightsInfo(path.name, digest, ("fc", "layer3", "layer4"))


def test_names_of_a_mobilenet(tmp_path: Path) -> None:
    state = zoo.mobilenet_v2().state_dict()
    save_file(state, tmp_path / "m.safetensors")
    extractor = extractor_of("mobilenet_v2")
    info = load_weights(extractor, tmp_path / "m.safetensors")
    first = extractor.body.get_submodule("0").get_submodule("0").weight
    assert torch.equal(first, state["features.0.0.weight"])
    assert info.unused[:2] == ("classifier.1", "features.10")


def test_nested_state_dict(tmp_path: Path, resnet: dict[str, torch.Tensor]) -> None:
    torch.save({"state_dict": resnet, "epoch": 3}, tmp_path / "w.pth")
    extractor = extractor_of()
    load_weights(extractor, tmp_path / "w.pth")
    assert torch.equal(extractor.body.conv1.weight, resnet["conv1.weight"])


def test_partial_file_serves_what_it_reaches(
    tmp_path: Path, resnet: dict[str, torch.Tensor]
) -> None:
    partial = {k: v for k, v in resnet.items() if not k.startswith(("layer3", "layer4", "fc"))}
    partial = {k: v for k, v in partial.items() if not k.endswith("num_batches_tracked")}
    save_file(partial, tmp_path / "w.safetensors")
    assert load_weights(extractor_of(), tmp_path / "w.safetensors").unused == ()
    deeper = build_extractor("resnet18", (8, 16))
    before = deeper.body.conv1.weight.clone()
    with pytest.raises(InputError, match=r"missing, such as layer3.0.conv1.weight.*'layer3'"):
        load_weights(deeper, tmp_path / "w.safetensors")
    assert torch.equal(deeper.body.conv1.weight, before)


def test_none_leaves_the_extractor_alone() -> None:
    extractor = extractor_of()
    before = extractor.body.conv1.weight.clone()
    assert load_weights(extractor, "none") == WeightsInfo("none")
    assert torch.equal(extractor.body.conv1.weight, before)


def test_another_network_is_refused(tmp_path: Path, resnet: dict[str, torch.Tensor]) -> None:
    wrong = {**resnet, "conv1.weight": torch.zeros(8, 3, 7, 7)}
    save_file(wrong, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"conv1.weight is \(8, 3, 7, 7\), expected \(64, 3"):
        load_weights(extractor_of(), tmp_path / "w.safetensors")


class Bomb:
    """A pickle that runs a command when it is opened carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_opening_a_file_runs_nothing(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Bomb(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(extractor_of(), tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02abc", bytes(100)])
def test_garbage_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(extractor_of(), path)


def test_truncated_file_is_refused(tmp_path: Path, resnet: dict[str, torch.Tensor]) -> None:
    save_file(resnet, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(extractor_of(), tmp_path / "w.safetensors")


def test_what_is_no_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; give a file, 'imagenet' or 'none'"):
        load_weights(extractor_of(), "imagnet")
    (tmp_path / "w.onnx").touch()
    with pytest.raises(InputError, match=r"expected a \.safetensors"):
        load_weights(extractor_of(), tmp_path / "w.onnx")
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(InputError, match="table of tensors"):
        load_weights(extractor_of(), tmp_path / "w.pth")


def test_imagenet_uses_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet: dict[str, torch.Tensor]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(resnet, cache / "resnet18-f37072fd.pth")
    extractor = extractor_of()
    info = load_weights(extractor, "imagenet")
    assert info.source == "imagenet"
    assert info.sha256
    assert torch.equal(extractor.body.conv1.weight, resnet["conv1.weight"])


def test_failed_download_says_what_else_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, *_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=r"resnet18.*no network.*give the file, or use 'none'"):
        load_weights(extractor_of(), "imagenet")


@pytest.mark.real_parts
@pytest.mark.parametrize(
    ("name", "file", "stride_on"),
    [
        ("resnet18", "resnet18_imagenet_l123", "3x3"),
        ("resnet50", "resnet50v1_imagenet_l123", "1x1"),
        ("mobilenet_v2", "mobilenet_v2_imagenet", "3x3"),
    ],
)
def test_real_weights_give_features_that_tell_textures_apart(
    name: str, file: str, stride_on: str, shared: Path
) -> None:
    extractor = build_extractor(name, (4, 8, 16), stride_on=stride_on)
    load_weights(extractor, shared / "weights" / f"{file}.safetensors")
    maps = extractor(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(m.isfinite().all() for m in maps)
    assert all(m.flatten(2).std(dim=2).mean() > 0.01 for m in maps)
