"""Teaching an extractor that has no weights: where on this part is a pasted patch?

The whole network, BatchNorms included, learns to classify the pixels of synthetic anomalies on the
user's own good images (methods 1.7); the small decoder that it needs for that is thrown away and
the extractor frozen. What separates patch from part is then written in the tapped maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import RunConfig
from ..data.layout import Dataset
from ..data.loader import Batch, epoch_batches
from ..errors import SanflowError
from ..imaging import PixelPath
from ..model.extractor import Extractor
from ..model.method import IMAGENET_MEAN, IMAGENET_STD
from .log import Clock, Report, Status

WIDTH = 32
"""Channels that the decoder sees of each tap: few, so that the extractor must do the work."""
JITTER = 0.2
"""Largest relative change of a whole image's brightness and contrast, which is no anomaly."""
MOST_WEIGHT = 10.0
"""Bound of the weight that balances anomalous pixels against the many normal ones."""
WARMUP = 0.1
"""Share of the steps in which the learning rate rises; then it falls as a cosine."""


class Decoder(nn.Module):
    """From tapped maps to one logit per position of the finest: (B, 1, H_1, W_1)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.taps = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in channels)
        joined = WIDTH * len(channels)
        self.mix = nn.Conv2d(joined, WIDTH, 3, padding=1, padding_mode="reflect")
        self.logit = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits of maps (B, C_k, H_k, W_k), fine to coarse."""
        size = maps[0].shape[2:]
        narrow = [
            F.interpolate(tap(m), size, mode="bilinear", align_corners=False)
            for tap, m in zip(self.taps, maps, strict=True)
        ]
        return cast(Tensor, self.logit(F.relu(self.mix(torch.cat(narrow, dim=1)))))


def teach(
    extractor: Extractor,
    dataset: Dataset,
    pixels: PixelPath,
    config: RunConfig,
    report: Report = lambda status: None,
) -> None:
    """Train `extractor` in place on the good training parts, then freeze it.

    The result follows from its first weights and the seed. Raises DataError without training
    images, ImageError for one that cannot be read, SanflowError when the loss is not finite.
    """
    device = next(extractor.parameters()).device
    steps, seed = config.pretext.steps, config.optim.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = Decoder(extractor.channels).to(device)
    generator = torch.Generator().manual_seed(seed)
    learning = [*extractor.parameters(), *decoder.parameters()]
    clock = Clock(0, steps)
    extractor.thaw()
    try:
        optimizer = torch.optim.AdamW(learning, config.pretext.learning_rate, weight_decay=1e-2)
        for step, (images, masks) in enumerate(_batches(dataset, pixels, config)):
            rate = config.pretext.learning_rate * _pace(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x = _seen(torch.from_numpy(images), generator).to(device)
            logits = decoder(extractor(x))
            loss = pixel_loss(logits, torch.from_numpy(masks).to(device))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise SanflowError(
                    f"teaching the extractor diverged: the loss is {value} in step {step + 1} of "
                    f"{steps}; give a pretext.learning_rate below {config.pretext.learning_rate:g}"
                )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            done = step + 1
            eta = clock.eta(done)
            report(Status("teach", done, steps, loss=value, learning_rate=rate, eta=eta))
    finally:
        extractor.freeze()


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of logits (B, 1, h, w) against the share of each cell that is anomalous.

    `masks` are bool (B, H, W), with H and W multiples of h and w; both classes weigh alike.
    """
    size = (logits.shape[2], logits.shape[3])
    share = F.adaptive_avg_pool2d(masks[:, None].to(logits.dtype), size)
    positive = share.mean()
    weight = ((1 - positive) / positive.clamp(min=1e-6)).clamp(1.0, MOST_WEIGHT)
    return F.binary_cross_entropy_with_logits(logits, share, pos_weight=weight)


def _batches(dataset: Dataset, pixels: PixelPath, config: RunConfig) -> Iterator[Batch]:
    """As many batches as there are steps, epoch after epoch."""
    pretext, optim = config.pretext, config.optim
    synth = replace(config.synth, enabled=True, quotas=_quotas(pretext.batch))
    done = 0
    for epoch in range(pretext.steps):
        for batch in epoch_batches(
            dataset.train, pixels, synth, optim.seed, epoch, workers=optim.workers
        ):
            yield batch
            done += 1
            if done == pretext.steps:
                return


def _quotas(batch: int) -> tuple[int, int, int, int]:
    """Normal, small, medium, circle: as equal as `batch` allows, the first ones first."""
    normal, small, medium, circle = (batch // 4 + (place < batch % 4) for place in range(4))
    return normal, small, medium, circle


def _pace(step: int, steps: int) -> float:
    """Share of the learning rate in `step`: a linear rise, then half a cosine to nearly nothing."""
    rise = max(1, round(WARMUP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _seen(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (B, H, W, 3) as normalised (B, 3, H, W), each in another light."""
    x = images.permute(0, 3, 1, 2).float() / 255
    brightness, contrast = 1 + JITTER * (
        2 * torch.rand((2, len(x), 1, 1, 1), generator=generator) - 1
    )
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (mean + contrast * (x - mean)).mul(brightness).clamp(0, 1)
    average, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    normal: Tensor = (x - average[:, None, None]) / deviation[:, None, None]
    return normal
