"""Prepared batches, in an order that follows from the seed, ahead of the one who trains.

Threads prepare whole batches (OpenCV releases the interpreter while it works); at most a few wait
at a time, so memory does not grow with the number of images, and the batches are the same bits
whatever the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..imaging import PixelPath
from .config import SynthConfig
from .layout import Sample
from .synthetic import Synthesiser

Images = NDArray[np.uint8]
Batch = tuple[Images, NDArray[np.bool_]]
T = TypeVar("T")
Made = TypeVar("Made", covariant=True)


def steps_per_epoch(images: int, synth: SynthConfig, world: int = 1) -> int:
    """Batches per epoch and process, so that every image is used once, a few perhaps twice."""
    return -(-images // (sum(synth.quotas) * world))


def epoch_batches(
    samples: Sequence[Sample],
    pixel_path: PixelPath,
    synth: SynthConfig,
    seed: int,
    epoch: int,
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """One epoch of batches: images uint8 (B, H, W, 3), masks bool (B, H, W); B = sum(quotas).

    Raises ImageError where a file cannot be read.
    """
    maker = Synthesiser(synth, pixel_path.height, pixel_path.width, seed)
    size = sum(synth.quotas)
    return shuffled_batches(
        samples, pixel_path, maker, size, seed, epoch, workers=workers, rank=rank, world=world
    )


class Maker(Protocol[Made]):
    """What turns good images into a batch; all its randomness follows from epoch and step."""

    def batch(
        self, normals: Sequence[Images], sources: Sequence[Images], epoch: int, step: int
    ) -> Made:
        """A batch of as many images, whose anomalies are taken from `sources`."""


def shuffled_batches(
    samples: Sequence[Sample],
    pixel_path: PixelPath,
    maker: Maker[Made],
    size: int,
    seed: int,
    epoch: int,
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Made]:
    """One epoch of what `maker` makes of `size` images at a time.

    The order is a permutation drawn from (seed, epoch); the last batch is filled from its
    beginning. Of several processes, `rank` of `world` gets its own share of the batches. Raises
    ImageError where a file cannot be read.
    """
    if not samples:
        raise DataError("no training images")
    share = -(-len(samples) // (size * world))
    order = np.random.default_rng((seed, epoch)).permutation(len(samples))
    order = np.resize(order, share * world * size).reshape(-1, size)

    def prepare(step: int) -> Made:
        # Each image once: fewer images than a batch holds come several times, and a maker tells a
        # part from the others that lend it an anomaly's content by the object.
        chosen = order[step].tolist()
        loaded = {i: pixel_path.load(samples[i].path) for i in set(chosen)}
        images = [loaded[i] for i in chosen]
        return maker.batch(images, images, epoch, step)

    steps = range(rank, share * world, world)
    return _ahead([partial(prepare, step) for step in steps], workers)


def image_batches(
    samples: Sequence[Sample], pixel_path: PixelPath, batch: int, *, workers: int = 0
) -> Iterator[Images]:
    """The images as they are and in order, uint8 (B, H, W, 3); the last batch may be shorter."""

    def prepare(start: int) -> Images:
        return np.stack([pixel_path.load(s.path) for s in samples[start : start + batch]])

    return _ahead([partial(prepare, i) for i in range(0, len(samples), batch)], workers)


def _ahead(tasks: Sequence[Callable[[], T]], workers: int) -> Iterator[T]:
    """Results in order, computed by `workers` threads while at most 2 per worker wait."""
    if workers == 0:
        yield from (task() for task in tasks)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sanflow-loader")
    waiting: deque[Future[T]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the consumer stops early
        pool.shutdown(wait=True, cancel_futures=True)
