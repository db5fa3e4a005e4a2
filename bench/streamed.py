"""Our batches in `bench streams`: the way of a training run, with a feed that only decodes."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from bench.peers.streams import Job
from scemae.config.schema.training import Data
from scemae.data.decode_processes import streamed_frames
from scemae.data.order import Order, Slice
from scemae.data.pipeline import Pipeline
from scemae.data.read_ahead import check_cache, read_ahead, streams_of
from scemae.data.storage.shard_set import ShardSet
from scemae.data.training_set import make_order, open_set

LANES, WINDOW = 16, 1  # of blocks of a shard each
TOGETHER = LANES * WINDOW  # shards that are shuffled together


def batches(job: Job) -> Iterator[Tensor]:
    """uint8 images (b, 3, s, s) of the steps from the one of image `job.first` to the epoch's end.

    As training/run.py opens and reads a set on one rank.
    """
    data = settings(job)
    shards = open_set(data, job.batch)
    order = make_order(shards, 0, job.batch, data)
    streams = streams_of(shards, order)
    check_cache(streams, 1, 1)
    images = job.epochs * job.samples - job.first
    source = streamed_frames(shards, 96, images, job.workers) if job.decoded else Undecoded(shards)
    steps = range(job.first // job.batch, -(-job.epochs * job.samples // job.batch))

    def coming() -> Iterator[tuple[int, np.ndarray]]:
        for part in slices(order, steps, lambda step: None):
            yield part.global_step - 1, part.samples

    with read_ahead(streams, coming, steps.start, "bench streams") as at:
        pipeline = Pipeline(
            source,
            slices(order, steps, at),
            0,
            lambda batch: (batch.images,),
            device=torch.device("cpu"),
            workers=job.workers,
        )
        for (images,) in pipeline:
            yield images


def settings(job: Job) -> Data:
    """The section `data` of a run."""
    return Data(
        shards=f"s3://{job.tars}",
        cache_dir=job.cache,
        frame=96,
        scale=[1.0, 1.0],
        jpeg_noise=False,
        decoder="cpu",
        max_bad_fraction=0.0,
        cache_gb=job.limit / 1e9,
        order="lanes",
        lanes=LANES,
        block=job.of_shard,
        window=WINDOW,
    )


def slices(order: Order, steps: range, at: Callable[[int], None]) -> Iterator[Slice]:
    """The slices of a run on one rank; `at` is told the step."""
    for step in steps:
        at(step)
        yield from order.slices(step, 0, 1, 1)


class Undecoded:
    """As StreamedFrames, with the first byte of a JPEG in place of its pixels."""

    size = 1

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards

    def frames(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples (b,), and one pixel of each (b, 1, 1, 3)."""
        bytes_ = [self.shards.jpeg(sample)[0] for sample in samples.tolist()]
        return samples, np.repeat(np.array(bytes_, np.uint8), 3).reshape(-1, 1, 1, 3)
