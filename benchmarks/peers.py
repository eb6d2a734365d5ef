"""Peers' graphs, exported by anomalib's own models, for engines.py to time beside ours.

    python -m venv PEERS && PEERS/bin/pip install anomalib
    PEERS/bin/python benchmarks/peers.py --out FOLDER

Run by an environment of its own: nothing of sanflow is imported here. The inner model only (pixels
already resized and normalised), 256 px, batch 1, random weights, which no speed depends on.
PatchCore's memory bank has 20480 patches: a tenth of 200 training images. EfficientAD has its own
networks.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
from anomalib.models.image.fastflow.torch_model import FastflowModel
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import Tensor, nn

SIDE = 256
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
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for backbone in BACKBONES:
        for name, build in PEERS.items():
            path = given.out / backbone / f"{name}.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                model = Plain(build(backbone)).eval()
                with torch.no_grad():
                    torch.onnx.export(
                        model,
                        (torch.randn(1, 3, SIDE, SIDE),),
                        str(path),
                        input_names=["image"],
                        output_names=["score", "map"],
                        opset_version=17,
                        dynamo=False,
                    )
            except Exception as error:
                print(f"{backbone}, {name}: not exported: {error}", flush=True)
                path.unlink(missing_ok=True)
                continue
            print(f"{backbone}, {name}: {path.stat().st_size / 2**20:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
