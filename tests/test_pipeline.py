"""From shards to batches: the same pixels for any number of ranks and threads."""

import hashlib

import numpy as np
import pytest
import torch

from scemae.data import pipeline
from scemae.data.order import Order, accumulation_steps
from scemae.data.reader import open_shards
from scemae.errors import ShardError
from tests.support import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return open_shards(str(write_shards(tmp_path_factory.mktemp("pipeline") / "shards", 20)))


def consumed(shards, steps, world_size, micro=100, workers=2, start=0, batch=7):
    """For each step: a digest of every (key, crop, mask) after collation, in order of the global batch."""
    accumulation = accumulation_steps(batch, world_size, micro)
    found = [[] for _ in range(steps)]
    for rank in range(world_size):
        fed = iter(pipeline.Pipeline(shards, Order(len(shards), 3, batch), rank=rank, world_size=world_size,
                                     accumulation_steps=accumulation, start_step=start, device=torch.device("cpu"),
                                     frame=178, workers=workers))
        for step in range(steps):
            for _ in range(accumulation):
                part = next(fed)
                images, noise = pipeline.pretraining_views(part, 96, (0.2, 1.0), 144)
                found[step] += [(shards.keys[sample], image.numpy().tobytes(), mask.numpy().tobytes())
                                for sample, image, mask, weight in zip(part.slice.samples, images, noise,
                                                                       part.slice.weights) if weight]
        fed.close()
    return [hashlib.sha256(repr(step).encode()).hexdigest() for step in found]


def test_one_two_and_three_ranks_see_the_same_keys_crops_and_masks(shards):
    alone = consumed(shards, 6, 1)  # two epochs and a bit
    assert consumed(shards, 6, 2) == alone
    assert consumed(shards, 6, 3) == alone
    assert consumed(shards, 6, 2, micro=2, workers=1) == alone


def test_starting_later_continues_the_same_line(shards):
    assert consumed(shards, 3, 1, start=3) == consumed(shards, 6, 1)[3:]


def test_an_aligned_image_loses_thirty_rows_above_and_ten_below(shards):
    import simplejpeg

    whole = simplejpeg.decode_jpeg(shards.jpeg(0))
    assert whole.shape == (218, 178, 3)
    assert np.array_equal(pipeline.decode(shards.jpeg(0), 178), whole[30:208])


def test_stage_2_views_are_normalised_crops_of_96(shards):
    fed = iter(pipeline.Pipeline(shards, Order(20, 0, 8), rank=0, world_size=1, accumulation_steps=1, start_step=0,
                                 device=torch.device("cpu"), frame=136, noisy_jpeg=True))
    first = next(fed)
    images = pipeline.correspondence_views(first, 96, (0.2, 1.0))
    assert first.images.shape == (8, 3, 136, 136) and images.shape == (8, 3, 96, 96)
    assert images.isfinite().all() and images.std() > 0.3
    fed.close()


def test_a_sample_that_is_no_jpeg_is_named(shards, monkeypatch):
    monkeypatch.setattr(shards, "jpeg", lambda i: b"not a picture")
    fed = iter(pipeline.Pipeline(shards, Order(20, 0, 2), rank=0, world_size=1, accumulation_steps=1, start_step=0,
                                 device=torch.device("cpu"), frame=178))
    with pytest.raises(ShardError, match="sample 0000.. is no whole JPEG"):
        next(fed)
