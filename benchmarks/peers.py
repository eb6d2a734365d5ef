"""Peers' graphs, exported by anomalib's own models, for engines.py to time beside ours.

    python -m venv PEERS && PEERS/bin/pip install anomalib
    PEERS/bin/python benchmarks/peers.py --out FOLDER
    PEERS/bin/python benchmarks/peers.py --out FOLDER --train IMAGES.npy --weights FILE --minutes 40

Run by an environment of its own: nothing of sanflow is imported here. The inner model only (pixels
already resized and normalised), 256 px, batch 1, random weights, which no speed depends on.
PatchCore's memory bank has 20480 patches: a tenth of 200 training images. EfficientAD has its own
networks. `--train` is what fastflow.py asks for: FastFlow alone, ResNet-18 with these ImageNet
weights, anomalib's loss, optimiser and batch, for so many minutes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
from anomalib.models.image.fastflow.loss import FastflowLoss
from anomalib.models.image.fastflow.torch_model import FastflowModel
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from safetensors.torch import load_file
from torch import Tensor, nn

SIDE = 256
BATCH = 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BANK = 20480
LARGEST = 2**31 - 1
"""Bytes of an ONNX file."""


class Plain(nn.Module):
    """Score and map as a tuple, which every exporter understands."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of normalised float pixels (1, 3, H, W)."""
        found = self.model(image)
        return found.pred_score, found.anomaly_map


def fastflow(backbone: str) -> nn.Module:
    """Eight steps of 3x3 and 1x1 subnets on strides 4, 8 and 16."""
    return FastflowModel((SIDE, SIDE), backbone, pre_trained=False)


def trained_fastflow(images: Path, weights: Path, minutes: float) -> nn.Module:
    """FastFlow after so many minutes on uint8 images (N, 256, 256, 3)."""
    model = FastflowModel((SIDE, SIDE), "resnet18", pre_trained=False)
    found = model.feature_extractor.load_state_dict(load_file(weights), strict=False)
    if missing := [name for name in found.missing_keys if "num_batches" not in name]:
        raise SystemExit(f"{weights} lacks {', '.join(missing[:5])}")
    pixels, loss_of = np.load(images, mmap_mode="r"), FastflowLoss()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    model.train()
    begin, epochs, steps = time.monotonic(), 0, 0
    while time.monotonic() - begin < 60 * minutes:
        total, order = 0.0, np.random.default_rng(epochs).permutation(len(pixels))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            loss = loss_of(*model(normalised(pixels[np.sort(order[first : first + BATCH])])))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, steps = total + loss.item(), steps + 1
        epochs += 1
        passed = (time.monotonic() - begin) / 60
        print(f"epoch {epochs}, {steps} steps, {passed:.1f} min, loss {total:.0f}", flush=True)
    return model


def normalised(pixels: np.ndarray) -> Tensor:
    """Float (N, 3, H, W) of uint8 (N, H, W, 3), as ImageNet's networks expect."""
    scaled = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2) / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def padim(backbone: str) -> nn.Module:
    """A Gaussian at every position of stride 4, of anomalib's default number of features."""
    model = PadimModel(backbone, pre_trained=False)
    features, positions = model.n_features, (SIDE // 4) ** 2
    size = 4 * positions * features**2
    if size > LARGEST:
        raise ValueError(f"{size / 1e9:.1f} GB of inverse covariances, no ONNX file holds them")
    model.gaussian.mean = torch.randn(features, positions)
    model.gaussian.inv_covariance = torch.eye(features).repeat(positions, 1, 1)
    return model


def patchcore(backbone: str) -> nn.Module:
    """Nearest neighbours of stride-8 patches."""
    model = PatchcoreModel(("layer2", "layer3"), backbone, pre_trained=False)
    with torch.no_grad():
        model.train()
        channels = model(torch.zeros(1, 3, SIDE, SIDE)).shape[1]
    model.embedding_store.clear()
    model.memory_bank = torch.randn(BANK, channels)
    return model


def efficient_ad(backbone: str) -> nn.Module:
    """Teacher, student and autoencoder of the small size."""
    model = EfficientAdModel()
    for name, value in (("mean_std", model.mean_std), ("quantiles", model.quantiles)):
        for key, tensor in value.items():
            fill = 1.0 if key in ("std", "qb_st", "qb_ae") else 0.0
            value[key] = nn.Parameter(torch.full_like(tensor, fill), requires_grad=False)
        setattr(model, name, value)
    return model


PEERS: dict[str, Callable[[str], nn.Module]] = {
    "fastflow": fastflow,
    "padim": padim,
    "patchcore": patchcore,
    "efficient_ad": efficient_ad,
}
BACKBONES = ("resnet18", "wide_resnet50_2")


def main() -> None:
    """Export what can be, and say what cannot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--minutes", type=float, default=40)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if given.train:
        model = trained_fastflow(given.train, given.weights, given.minutes)
        export(model, given.out / "fastflow.onnx")
        return
    for backbone in BACKBONES:
        for name, build in PEERS.items():
            path = given.out / backbone / f"{name}.onnx"
            try:
                export(build(backbone), path)
            except Exception as error:
                print(f"{backbone}, {name}: not exported: {error}", flush=True)
                path.unlink(missing_ok=True)
                continue
            print(f"{backbone}, {name}: {path.stat().st_size / 2**20:.0f} MiB", flush=True)


def export(model: nn.Module, path: Path) -> None:
    """Score and map of one image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(
            Plain(model).eval(),
            (torch.randn(1, 3, SIDE, SIDE),),
            str(path),
            input_names=["image"],
            output_names=["score", "map"],
            opset_version=17,
            dynamo=False,
        )


if __name__ == "__main__":
    main()
