"""From a data set to a trained run: check, prepare the model, train epoch by epoch, keep each one.

Whatever ends the process, at most the epoch in progress is lost: `resume=True` continues after the
last finished one and ends, on a CPU, with the same bits as a run that was never stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.check import check_dataset, require_good_parts
from ..data.layout import Dataset, open_dataset
from ..data.loader import epoch_batches, image_batches, steps_per_epoch
from ..data.textures import texture_files
from ..errors import DataError
from ..imaging import PixelPath
from ..model.cls_cnf import CLSCNF
from ..model.device import usable_device
from ..model.extractor import Extractor
from ..model.method import Method
from ..model.methods import build
from ..model.weights import WeightsInfo, load_weights, require_weights
from ..run import RECORD, Compute, DataRecord, Progress, Run, RunRecord, write_run
from . import checkpoint
from .distributed import Group, process_group
from .folder import claim, continued_config, given_back, require_same_data
from .hybrid import choose_weight, first_stage
from .interrupt import interruptible
from .journal import Journal
from .log import Report, Status
from .loop import Loop
from .precision import resolve
from .presets import preset
from .pretext import teach

SCALE_IMAGES = 256
"""Images, spread over the training set, that the feature scale is measured on."""


def train(
    data: Path,
    out: Path,
    config: RunConfig | None = None,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    device: str = "auto",
    progress: Report | None = None,
) -> Run:
    """Train on the good parts of `data` and leave the run in the folder `out`.

    `config` defaults to the preset `sanflow`, and to the run's own when it is resumed. `skip_bad`
    goes on without images that the check found bad. `device` is `auto`, `cpu`, `cuda` or `cuda:N`.
    Under torchrun every process calls this; the first one writes and reports.

    Raises DataError with the whole report when images are bad, InputError when `out` cannot be
    used, SanflowError when training diverges, Interrupted on Ctrl-C or SIGTERM.
    """
    if config is not None and config.hybrid.textures.folder:
        texture_files(config.hybrid.textures.folder)
    with given_back(out), process_group() as group, interruptible(lambda: _stopped(out)):
        target = _device(device, group)
        report = progress if progress and group.leads else _silent
        begun = group.share(lambda: claim(out, resume))
        if begun is None:
            config = config or preset("sanflow")
            source = config.weights
            group.share(lambda: require_weights(source))
        else:
            config = continued_config(config, begun)
            if begun.record.progress.finished:
                return begun
            group.require_same_world(begun.record.compute.processes)
        dataset, record = group.share(lambda: _checked(data, config, skip_bad, report))
        if begun is None:
            precision = resolve(config.optim.precision, target)
            compute = Compute(target.type, precision, group.world)
            model = build(config.model, config.optim.seed).to(target)
            new = RunRecord(config, record, WeightsInfo(config.weights), compute=compute)
            run = group.share(lambda: _begin(out, model, dataset, new, report))
        else:
            run = begun
            require_same_data(record, run)
            model = run.model().to(target)
        group.align(model)
        return _train(run, model, dataset, group, report, config.optim.workers)


def _stopped(out: Path) -> str:
    if (out / RECORD).exists():
        return f"training stopped; finished epochs are kept in {out}, continue with --resume"
    return "training stopped before there was anything to keep; begin again with the same command"


def _checked(
    data: Path, config: RunConfig, skip_bad: bool, report: Report
) -> tuple[Dataset, DataRecord]:
    """The data set without bad images, and its record; DataError with every finding."""
    dataset = open_dataset(data, config.data)
    checked = check_dataset(
        dataset,
        config.data,
        lambda done, total: report(Status("check", done, total)),
        size=(config.model.height, config.model.width),
    )
    if checked.findings and not skip_bad:
        raise DataError(f"{checked.text()}\nremove or mend these images, or give --skip-bad")
    require_good_parts(checked)
    dataset = checked.dataset_without_bad
    roles = {
        role: tuple((dataset.relative(s.path), checked.content_hashes[s.path]) for s in samples)
        for role, samples in dataset.roles().items()
    }
    root = str(Path(data).resolve())
    parts = {dataset.relative(s.path): s.group for s in dataset.calibrate}
    record = DataRecord(
        root=root,
        layout=dataset.layout,
        fingerprint=checked.fingerprint,
        roles=roles,
        size=checked.size,
        parts={name: part for name, part in parts.items() if name != part},
    )
    return dataset, record


def _begin(
    out: Path, model: Method[Any], dataset: Dataset, record: RunRecord, report: Report
) -> Run:
    """Give the new model its extractor weights and feature scale, and write it with its record."""
    config = record.config
    pixels = PixelPath(config.model.height, config.model.width, config.data.roi)
    weights = load_weights(model.extractor, config.weights)
    if weights.source == "none":
        teach(cast(Extractor, model.extractor), dataset, pixels, config, report)
    model.eval().fit_feature_scale(_scale_batches(dataset, pixels, config, report))
    return write_run(out, replace(record, weights=weights), model)


def _scale_batches(
    dataset: Dataset, pixels: PixelPath, config: RunConfig, report: Report
) -> Iterator[Tensor]:
    samples = dataset.train[:: -(-len(dataset.train) // SCALE_IMAGES)]
    done = 0
    for images in image_batches(samples, pixels, 8, workers=config.optim.workers):
        yield torch.from_numpy(images)
        done += len(images)
        report(Status("scale", done, len(samples)))


def _train(
    run: Run, model: Method[Any], dataset: Dataset, group: Group, report: Report, workers: int
) -> Run:
    """The epochs that are left; each is kept as soon as it is finished."""
    config, optim = run.config, run.config.optim
    if isinstance(model, CLSCNF) and not model.taught:
        good = _scale_batches(dataset, run.pixel_path, config, report)
        group.share(lambda: first_stage(run, model, dataset, good, report))
        group.align(model)
    steps = steps_per_epoch(len(dataset.train), config.synth, group.world)
    kept = checkpoint.load(run.path)
    precision = resolve(run.record.compute.precision, model.level_max.device)
    loop = Loop(model, config, steps, precision, group)
    if kept is not None:
        checkpoint.restore(model, kept.model)
        loop.restore(kept.optimizer, kept.scaler)
    history = kept.history if kept else []
    with Journal(run, loop, group, history, report) as journal:
        for epoch in range(len(history), optim.epochs):
            started = time.monotonic()
            batches = epoch_batches(
                dataset.train,
                run.pixel_path,
                config.synth,
                optim.seed,
                epoch,
                workers=workers,
                rank=group.rank,
                world=group.world,
            )
            means = loop.epoch(epoch, batches, journal.step)
            journal.epoch(means, steps * group.world * sum(config.synth.quotas), started)
    if isinstance(model, CLSCNF):
        group.share(lambda: choose_weight(run, model, dataset, report))
    finished = replace(run.record, progress=Progress(optim.epochs, finished=True))
    return group.share(lambda: _finish(run.path, finished, model))


def _finish(out: Path, record: RunRecord, model: Method[Any]) -> Run:
    """Write the trained model; the checkpoint, several times its size, has served."""
    run = write_run(out, record, model)
    (out / checkpoint.NAME).unlink(missing_ok=True)
    return run


def _device(name: str, group: Group) -> torch.device:
    device = usable_device(name, int(os.environ["LOCAL_RANK"]) if group.world > 1 else None)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    return device


def _silent(status: Status) -> None:
    pass
