"""The order and the bits of batches: every image, no matter how many threads or processes."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanflow.data import loader
from sanflow.data.config import DataConfig, SynthConfig
from sanflow.data.layout import GOOD, Sample, open_dataset
from sanflow.data.loader import epoch_batches, image_batches, steps_per_epoch
from sanflow.errors import DataError, ImageError
from sanflow.imaging import PixelPath, Roi, write_png

PIXELS = PixelPath(16, 16)
SYNTH = SynthConfig(quotas=(1, 1, 1, 1))
PLAIN = replace(SYNTH, enabled=False)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Ten flat images: the value of each is 20 times its number."""
    found = []
    for i in range(10):
        path = tmp_path / f"{i}.png"
        write_png(path, np.full((16, 16, 3), 20 * i, np.uint8))
        found.append(Sample(path, GOOD, None, path.name))
    return found


def order(samples: list[Sample], **options: int) -> list[list[int]]:
    """The numbers of the images in each batch, read from their pixels."""
    arguments = {"seed": 0, "epoch": 0, **options}
    batches = epoch_batches(samples, PIXELS, PLAIN, **arguments)  # type: ignore[arg-type]
    return [(images[:, 0, 0, 0] // 20).tolist() for images, _ in batches]


def test_every_image_once_and_the_last_batch_is_filled_from_the_beginning(
    samples: list[Sample],
) -> None:
    batches = order(samples)
    assert [len(b) for b in batches] == [4, 4, 4]
    flat = [number for batch in batches for number in batch]
    assert sorted(flat[:10]) == list(range(10))
    assert flat[10:] == flat[:2]


def test_few_images_wrap_around_as_often_as_needed(samples: list[Sample]) -> None:
    assert [sorted(b) for b in order(samples[:2])] == [[0, 0, 1, 1]]


def test_a_part_that_comes_twice_lends_itself_no_patch(samples: list[Sample]) -> None:
    """On a flat image its own patch would be invisible, and labelled an anomaly."""
    synth = SynthConfig(quotas=(1, 7, 0, 0), jitter=0.0, blur=0.0)
    for epoch in range(5):
        chosen = [samples[0], samples[9]]
        for images, masks in epoch_batches(chosen, PIXELS, synth, seed=0, epoch=epoch):
            for image, mask in zip(images[1:], masks[1:], strict=True):
                assert len(np.unique(image)) > 1
                assert mask.any()


def test_the_order_follows_from_seed_and_epoch(samples: list[Sample]) -> None:
    drawn = [order(samples, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert drawn[0] == order(samples)
    assert len({str(d) for d in drawn}) == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bits_do_not_depend_on_the_workers(samples: list[Sample], workers: int) -> None:
    def bits(workers: int) -> list[tuple[bytes, bytes]]:
        batches = epoch_batches(samples, PIXELS, SYNTH, seed=3, epoch=1, workers=workers)
        return [(images.tobytes(), masks.tobytes()) for images, masks in batches]

    assert bits(workers) == bits(0)


def test_batches_hold_anomalies_in_exact_numbers(samples: list[Sample]) -> None:
    for images, masks in epoch_batches(samples, PIXELS, SYNTH, seed=0, epoch=0):
        assert images.shape == (4, 16, 16, 3)
        assert masks.any(axis=(1, 2)).tolist() == [False, True, True, True]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_are_disjoint_and_together_see_everything(samples: list[Sample], world: int) -> None:
    pairs = replace(PLAIN, quotas=(2, 0, 0, 0))
    shares = []
    for rank in range(world):
        batches = epoch_batches(samples, PIXELS, pairs, 0, 0, rank=rank, world=world)
        shares.append([(images[:, 0, 0, 0] // 20).tolist() for images, _ in batches])
    assert {len(share) for share in shares} == {steps_per_epoch(10, pairs, world)}
    interleaved = [n for step in zip(*shares, strict=True) for batch in step for n in batch]
    assert sorted(interleaved[:10]) == list(range(10))  # only the filling comes twice
    assert interleaved[10:] == interleaved[: len(interleaved) - 10]


def test_ranks_make_different_anomalies_at_the_same_step(samples: list[Sample]) -> None:
    same = [samples[0]] * 8
    first = [
        next(iter(epoch_batches(same, PIXELS, SYNTH, 0, 0, rank=r, world=2)))[1] for r in (0, 1)
    ]
    assert (first[0] != first[1]).any()


@given(st.integers(1, 300), st.integers(1, 16), st.integers(1, 5))
def test_steps_cover_every_image_and_no_batch_is_idle(images: int, batch: int, world: int) -> None:
    steps = steps_per_epoch(images, SynthConfig(quotas=(batch, 0, 0, 0)), world)
    assert steps * batch * world >= images
    assert (steps - 1) * batch * world < images


def test_image_batches_are_in_order_and_the_last_is_short(samples: list[Sample]) -> None:
    for workers in (0, 2):
        batches = list(image_batches(samples, PIXELS, 4, workers=workers))
        assert [len(b) for b in batches] == [4, 4, 2]
        assert (np.concatenate(batches)[:, 0, 0, 0] // 20).tolist() == list(range(10))
    assert list(image_batches([], PIXELS, 4)) == []


def test_the_region_of_interest_is_used(mvtec: Path) -> None:
    dataset = open_dataset(mvtec, DataConfig())
    pixels = PixelPath(4, 4, Roi(2, 1, 4, 4))
    [batch] = image_batches(dataset.test, pixels, 9)
    np.testing.assert_array_equal(batch[0], pixels.load(dataset.test[0].path))


@settings(max_examples=10, deadline=None)
@given(workers=st.integers(1, 3), count=st.integers(0, 30))
def test_no_more_than_a_few_results_wait(workers: int, count: int) -> None:
    done, most = [0], 0

    def task(i: int) -> int:
        done[0] += 1
        return i

    results = []
    for result in loader._ahead([lambda i=i: task(i) for i in range(count)], workers):
        results.append(result)
        most = max(most, done[0] - len(results))
    assert results == list(range(count))
    assert most <= 2 * workers


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_where_the_batch_is_used(
    samples: list[Sample], workers: int
) -> None:
    samples[7].path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"7\.png: the file is empty"):
        list(epoch_batches(samples, PIXELS, SYNTH, 0, 0, workers=workers))


def test_no_thread_outlives_a_consumer_who_stops_early(samples: list[Sample]) -> None:
    before = threading.active_count()
    batches = epoch_batches(samples * 20, PIXELS, SYNTH, 0, 0, workers=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_no_images_is_an_error_before_the_first_batch() -> None:
    with pytest.raises(DataError, match="no training images"):
        epoch_batches([], PIXELS, SYNTH, 0, 0)
