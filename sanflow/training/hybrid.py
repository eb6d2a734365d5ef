"""CLS-CNF's training around the flows: the classifier before them, the maps' weight after them.

Before: the decoder alone learns to classify the pixels of textured defects, then extractor and
decoder together; BatchNorms of the extractor keep their statistics. The extractor is frozen again
and the flows learn from good images, as any method's do. After: the weight that the classifier's
map gets beside the flows' is chosen on textured defects that no training made (methods 7).

A finished pass of the first stage is kept in RUN/classifier.pt and a stopped one goes on after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from ..config import HybridConfig, OptimConfig, RunConfig
from ..data.layout import Dataset
from ..data.loader import image_batches, shuffled_batches
from ..data.samples import Sample
from ..data.textures import TextureSynthesiser
from ..errors import SanflowError
from ..imaging import PixelPath
from ..model.cls_cnf import CLSCNF
from ..run import Run, write_model
from . import checkpoint
from .checkpoint import Checkpoint
from .log import Clock, Report, Status
from .schedule import Schedule

KEPT = "classifier.pt"
EPOCH = 2**31
"""The epoch that defects are drawn for when the weight is chosen: no training ever comes to it."""
LEVEL_MAX_IMAGES = 512
WEIGHTS = tuple(round(0.05 * n, 2) for n in range(1, 21))
"""Of the classifier's map; the first of the best is taken."""
BATCH = 8


def first_stage(
    run: Run, model: CLSCNF, dataset: Dataset, good: Iterable[Tensor], report: Report
) -> None:
    """Teach the classifier, measure the features anew on `good` batches, and keep both in the run.

    Raises DataError when there is no folder of textures or no training image, SanflowError when
    the loss is not finite.
    """
    learn_defects(run.path, model, dataset, run.pixel_path, run.config, report)
    model.eval().fit_feature_scale(good)
    model.taught.fill_(1)
    write_model(run.path, model)
    (run.path / KEPT).unlink(missing_ok=True)


def learn_defects(
    run: Path,
    model: CLSCNF,
    dataset: Dataset,
    pixels: PixelPath,
    config: RunConfig,
    report: Report,
) -> None:
    """Train the decoder, then decoder and extractor, on textured defects; both end frozen."""
    hybrid, seed = config.hybrid, config.optim.seed
    epochs = hybrid.warmup_epochs + hybrid.joint_epochs
    steps = -(-len(dataset.train) // hybrid.batch)
    rates = Schedule(_optim(hybrid, epochs), steps)
    learning = [*model.extractor.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.Adam(learning, hybrid.learning_rate, weight_decay=hybrid.weight_decay)
    kept = checkpoint.load(run, KEPT)
    if kept is not None:
        model.load_state_dict(kept.model, strict=False)
        optimizer.load_state_dict(kept.optimizer)
    history = kept.history if kept else []
    clock = Clock(len(history) * steps, epochs * steps)
    maker = TextureSynthesiser(hybrid.textures, pixels.height, pixels.width, seed)
    for epoch in range(len(history), epochs):
        model.extractor.requires_grad_(epoch >= hybrid.warmup_epochs)
        model.decoder.requires_grad_(True).train()
        total = 0.0
        batches = shuffled_batches(
            dataset.train, pixels, maker, hybrid.batch, seed, epoch, workers=config.optim.workers
        )
        for step, (images, labels) in enumerate(batches):
            done = epoch * steps + step
            rate = rates(done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            value = _descend(model, optimizer, images, labels)
            if not math.isfinite(value):
                raise SanflowError(
                    f"learning defects diverged: the loss is {value} in pass {epoch + 1} of "
                    f"{epochs}; give a hybrid.learning_rate below {hybrid.learning_rate:g}"
                )
            total += value
            eta = clock.eta(done + 1)
            report(Status("defects", done + 1, clock.total, epoch + 1, epochs, value, rate, eta))
        history.append({"epoch": epoch + 1, "loss": total / steps})
        state = {k: v for k, v in model.state_dict().items() if k.startswith(CLSCNF.SHARED)}
        checkpoint.save(run, Checkpoint(state, optimizer.state_dict(), {}, history), KEPT)
    model.freeze_classifier()


def _descend(
    model: CLSCNF,
    optimizer: torch.optim.Optimizer,
    images: NDArray[np.uint8],
    labels: NDArray[np.float32],
) -> float:
    """One step; the loss before it: cross-entropy of every pixel against its soft label."""
    device = model.pixel_mean.device
    logits = model.classify(torch.from_numpy(images).to(device))
    loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).to(device))
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def choose_weight(run: Run, model: CLSCNF, dataset: Dataset, report: Report) -> None:
    """Set m_k, and the weight of the classifier's map with the highest pixelwise precision.

    That is average precision over all pixels of textured defects on training parts. Raises
    SanflowError when no part got a defect.
    """
    config, pixels = run.config, run.pixel_path
    model.eval()
    count = min(LEVEL_MAX_IMAGES, len(dataset.train))
    model.fit_level_max(_good(_evenly(dataset.train, count), pixels, config, report))
    chosen = _evenly(dataset.train, min(config.hybrid.validation, len(dataset.train)))
    maker = TextureSynthesiser(
        config.hybrid.textures, pixels.height, pixels.width, config.optim.seed
    )
    likelihoods, defects, truth = [], [], []
    for start in range(0, len(chosen), BATCH):
        good = [pixels.load(sample.path) for sample in chosen[start : start + BATCH]]
        images, labels = maker.batch(good, good, EPOCH, start)
        flows, classified = model.maps(torch.from_numpy(images).to(model.pixel_mean.device))
        likelihoods.append(flows.cpu().numpy().reshape(-1))
        defects.append(classified.cpu().numpy().reshape(-1))
        truth.append(labels.reshape(-1) > 0)
    positive = np.concatenate(truth)
    if not positive.any():
        raise SanflowError(
            f"none of {len(chosen)} parts got a textured defect, so the maps' weight cannot be "
            "chosen; give a lower hybrid.textures.threshold, or another foreground"
        )
    flow_map, class_map = np.concatenate(likelihoods), np.concatenate(defects)
    found = [
        float(average_precision_score(positive, flow_map + weight * class_map))
        for weight in WEIGHTS
    ]
    model.map_weight.fill_(WEIGHTS[int(np.argmax(found))])
    (run.path / KEPT).unlink(missing_ok=True)  # a crash right after the first stage may leave it


def _optim(hybrid: HybridConfig, epochs: int) -> OptimConfig:
    """A cosine without warm-up over the whole stage."""
    return OptimConfig(
        epochs=epochs,
        sub_epochs=hybrid.sub_epochs,
        learning_rate=hybrid.learning_rate,
        warmup_meta_epochs=0,
    )


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


def _good(
    samples: Sequence[Sample], pixels: PixelPath, config: RunConfig, report: Report
) -> Iterator[Tensor]:
    done = 0
    for images in image_batches(samples, pixels, BATCH, workers=config.optim.workers):
        yield torch.from_numpy(images)
        done += len(images)
        report(Status("scale", done, len(samples)))
