"""From shards to batches: the same pixels for any number of ranks and threads, in every tier."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from scemae.data import decode, pipeline
from scemae.data.frame_sources import StreamedFrames
from scemae.data.order import Order, accumulation_steps
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ShardError
from tests.support import write_shards

VIEWS = partial(pipeline.pretraining_views, size=96, scale=(0.2, 1.0), patches=144)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return open_shards(str(write_shards(tmp_path_factory.mktemp("pipeline") / "shards", 20)))


def fed(shards, order, slices, views=VIEWS, frame=178, **options):
    return iter(
        pipeline.Pipeline(
            StreamedFrames(shards, frame),
            slices,
            order.seed,
            views,
            device=torch.device("cpu"),
            **options,
        )
    )


def consumed(shards, steps, world_size, micro=100, workers=2, start=0, batch=7):
    """For each step a digest of every (key, crop, mask), in order of the global batch."""
    accumulation, order = accumulation_steps(batch, world_size, micro), Order(len(shards), 3, batch)
    found = [[] for _ in range(steps)]
    for rank in range(world_size):
        slices = [
            part
            for step in range(start, start + steps)
            for part in order.slices(step, rank, world_size, accumulation)
        ]
        for part, (images, noise, weights) in zip(
            slices, fed(shards, order, slices, workers=workers), strict=True
        ):
            assert np.array_equal(weights, part.weights)
            found[part.global_step - 1 - start] += [
                (shards.keys[sample], image.numpy().tobytes(), mask.numpy().tobytes())
                for sample, image, mask, weight in zip(part.samples, images, noise, weights)
                if weight
            ]
    return [hashlib.sha256(repr(step).encode()).hexdigest() for step in found]


def test_one_two_and_three_ranks_see_the_same_keys_crops_and_masks(shards):
    alone = consumed(shards, 6, 1)  # two epochs and a bit
    assert consumed(shards, 6, 2) == alone
    assert consumed(shards, 6, 3) == alone
    assert consumed(shards, 6, 2, micro=2, workers=1) == alone


def test_starting_later_continues_the_same_order(shards):
    assert consumed(shards, 3, 1, start=3) == consumed(shards, 6, 1)[3:]


def test_jobs_of_several_threads_keep_the_order_of_a_batch(shards, monkeypatch):
    alone = consumed(shards, 4, 1)
    monkeypatch.setattr(pipeline, "CHUNK", 2)
    assert consumed(shards, 4, 1, workers=4) == alone


def test_consumed_is_called_with_the_samples_and_digests_of_the_batch(shards):
    order, consumed = Order(20, 3, 7), []
    parts = order.slices(0, 0, 1, 1) + order.slices(1, 0, 1, 1)
    batches = fed(
        shards,
        order,
        parts,
        views=lambda batch: (batch.images,),
        consumed=lambda *facts: consumed.append(facts),
    )
    for part, (images,), (slice_consumed, found, digests) in zip(
        parts, batches, consumed, strict=False
    ):
        assert slice_consumed is part and np.array_equal(found, part.samples)
        assert np.array_equal(
            digests, decode.digests(images.permute(0, 2, 3, 1).contiguous().numpy())
        )
    assert len(consumed) == 2


def test_drawn_lists_the_samples_that_the_batches_draw():
    order = Order(20, 3, 7)
    batches = [order.global_batch(step) for step in range(2, 9)]
    drawn = [(np.full(len(samples), epoch), samples) for epoch, samples in order.drawn(2, 9)]
    assert np.array_equal(
        np.concatenate([e for e, _ in drawn]), np.concatenate([epochs for _, epochs in batches])
    )
    assert np.array_equal(
        np.concatenate([s for _, s in drawn]), np.concatenate([samples for samples, _ in batches])
    )


def test_an_aligned_image_loses_thirty_rows_above_and_ten_below(shards):
    import simplejpeg

    whole = simplejpeg.decode_jpeg(shards.jpeg(0))
    assert whole.shape == (218, 178, 3)
    assert np.array_equal(decode.decode(shards.jpeg(0), 178), whole[30:208])


def test_stage_2_views_are_normalised_crops_of_96(shards):
    order = Order(20, 0, 8)
    views = lambda batch: (batch.images, pipeline.correspondence_views(batch, 96, (0.2, 1.0)))  # noqa: E731
    frames, images = next(
        fed(shards, order, order.slices(0, 0, 1, 1), views, frame=136, noisy_jpeg=True)
    )
    assert frames.shape == (8, 3, 136, 136) and images.shape == (8, 3, 96, 96)
    assert images.isfinite().all() and images.std() > 0.3


def test_a_sample_that_is_no_jpeg_is_named(shards, monkeypatch):
    monkeypatch.setattr(shards, "jpeg", lambda i: b"not a picture")
    order = Order(20, 0, 2)
    with pytest.raises(ShardError, match="sample 0000.. is no whole JPEG"):
        next(fed(shards, order, order.slices(0, 0, 1, 1)))
