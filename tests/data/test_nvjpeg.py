"""Frames decoded by the GPU; without one the CPU decodes in its place: order, crops, bad JPEGs."""

import threading
import time

import numpy as np
import pytest
import simplejpeg
import torch

from scemae.data import decode, nvjpeg
from scemae.data.frame_sources import StreamedFrames
from scemae.data.order import Order
from scemae.data.pipeline import Pipeline
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ConfigError
from tests.support import flipped, write_shards


def host_decode(jpegs, device):
    try:
        return [
            torch.from_numpy(simplejpeg.decode_jpeg(bytes(jpeg.numpy()))).permute(2, 0, 1)
            for jpeg in jpegs
        ]
    except ValueError as error:
        raise RuntimeError(error) from error


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "shards", 12)


@pytest.mark.parametrize("size", [178, 96])
def test_frames_are_those_of_the_host(folder, size):
    shards, samples = open_shards(str(folder)), np.array([7, 3, 11])
    found, hashes, frames = nvjpeg.NvjpegFrames(
        shards, size, torch.device("cpu"), host_decode
    ).gather(samples)
    _, expected = StreamedFrames(shards, size).frames(samples)
    assert np.array_equal(found, samples)
    assert np.abs(frames.numpy().astype(int) - expected).max() <= (0 if size == 178 else 1)
    assert np.array_equal(
        hashes, decode.digests([np.frombuffer(shards.jpeg(i), np.uint8) for i in samples])
    )


def test_a_sample_that_is_no_jpeg_is_replaced_by_the_next_one(folder):
    shards = open_shards(str(flipped(folder, 3)))
    found, hashes, frames = nvjpeg.NvjpegFrames(
        shards, 178, torch.device("cpu"), host_decode
    ).gather(np.array([7, 3]))
    assert found.tolist() == [7, 4] and np.array_equal(
        frames[1], decode.decode(shards.jpeg(4), 178)
    )


def test_a_thread_decodes_one_batch_ahead_of_training(folder):
    shards, started = open_shards(str(folder)), []

    def decode_elsewhere(jpegs, device):
        started.append(threading.current_thread().name)
        return host_decode(jpegs, device)

    source, consumed = nvjpeg.NvjpegFrames(shards, 178, torch.device("cpu"), decode_elsewhere), []
    slices = list(Order(12, 0, 3).slices(0, 0, 1, 1)) * 3
    batches = iter(
        Pipeline(
            source,
            iter(slices),
            0,
            lambda batch: (batch.images,),
            device=torch.device("cpu"),
            consumed=lambda part, found, hashes: consumed.append(found),
        )
    )
    for ready, part in enumerate(slices, 1):
        (images,) = next(batches)
        assert np.array_equal(
            images.permute(0, 2, 3, 1), StreamedFrames(shards, 178).frames(part.samples)[1]
        )
        assert len(consumed) == ready and np.array_equal(consumed[-1], part.samples)
        time.sleep(0.2)
        assert len(started) == min(ready + 1, 3)
    assert all(name.startswith("decode") for name in started) and not list(batches)


def test_without_a_gpu_it_says_so(folder):
    with pytest.raises(ConfigError, match="found no CUDA device"):
        nvjpeg.NvjpegFrames(open_shards(str(folder)), 178, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpus_pixels_are_within_some_grey_levels_of_the_hosts(folder):
    shards, samples = open_shards(str(folder)), np.arange(12)
    _, _, frames = nvjpeg.NvjpegFrames(shards, 178, torch.device("cuda")).gather(samples)
    difference = np.abs(
        frames.cpu().numpy().astype(int) - StreamedFrames(shards, 178).frames(samples)[1]
    )
    assert difference.mean() < 2 and np.percentile(difference, 99) <= 12
