"""The peers of `bench loader` deliver batches like ours, of similar images. Nothing is timed."""

from itertools import islice, product

import numpy as np
import pytest
import torch

from bench import decoders, loader
from bench.peers import loaders
from scemae.data.storage.shard_set import ShardSet
from tests.support import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("loader") / "train", 40)


@pytest.fixture(scope="module")
def images(shards, tmp_path_factory):
    return loaders.prepare(shards, tmp_path_factory.mktemp("formats"), 40)


def five(batches):
    """Forty images in five batches, as one tensor."""
    found = list(islice(batches, 5))
    batches.close()
    assert [images.shape for images in found] == 5 * [(8, 3, 96, 96)]
    assert all(images.dtype == torch.float32 for images in found)
    return torch.cat(found)


@pytest.mark.parametrize(
    "peer, decoder", [*product(loaders.PEERS, loaders.DECODERS), ("spdl", "ffmpeg")]
)
def test_a_peer_delivers_the_same_images(peer, decoder, shards, images):
    if peer not in loaders.installed():
        pytest.skip(f"{peer} is not installed")
    if decoder == "ffmpeg":
        try:
            __import__("spdl.io", fromlist=["load_image"]).load_image(
                next(images.files.rglob("*.jpg")).read_bytes()
            )
        except RuntimeError as error:
            pytest.skip(str(error)[:80])
    found, mine = (
        five(loaders.PEERS[peer](images, decoder, 8, 2)),
        five(loader.ours("streaming", shards, 8, 2)),
    )
    assert (found.mean((0, 2, 3)) - mine.mean((0, 2, 3))).abs().max() < 0.3
    assert (found.std((0, 2, 3)) - mine.std((0, 2, 3))).abs().max() < 0.3


def test_both_tiers_give_the_same_batches(shards):
    assert torch.equal(*(five(loader.ours(tier, shards, 8, 2)) for tier in loader.OURS))


def test_decoders_are_compared_with_pillow(shards):
    jpegs = loader.some_jpegs(ShardSet(shards), 3)
    rows = {row["decoder"]: row for row in decoders.differences(jpegs)}
    assert rows["Pillow"]["max difference"] == 0
    worst = max(
        np.abs(decoders.by_cv2(data).astype(int) - decoders.by_pil(data)).max() for data in jpegs
    )
    assert rows["OpenCV"]["max difference"] == worst
    assert [row["decoder"] for row in decoders.rates(jpegs, 1)] == list(decoders.DECODERS)
