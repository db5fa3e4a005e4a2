"""The way of the images from the shards to the arguments of the engine, one micro-batch at a time.

    open_frames (data/frame_cache.py)     frames, decoded when they are needed or kept in memory
    Pipeline (data/pipeline.py)           slices of the order -> frames -> views
    embed (methods/NAME.py), stage 2      views -> outputs of the frozen trunk

`Feed` does this for stage 1 and for those methods of stage 2 that compute the trunk for each view
anew. Methods with STORED = True are fed by token_store.TokenFeed, which has the same functions.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scemae.config.schema.training import CorrespondConfig, PretrainConfig
from scemae.data.frame_cache import open_frames
from scemae.data.frame_sources import StreamedFrames
from scemae.data.nvjpeg import NvjpegFrames
from scemae.data.order import Order, Slice
from scemae.data.pipeline import Batch, Consumed, Pipeline, Views, correspondence_views
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed.process_group import Place, data_threads

Arguments = tuple[Tensor, ...]  # of the engine, for one micro-batch
Batches = Generator[Arguments, None, None]


@dataclass
class Feed:
    """Micro-batches: views in stage 1, a frozen trunk's outputs for views in stage 2."""

    config: PretrainConfig | CorrespondConfig
    shards: ShardSet
    place: Place
    views: Views  # from a batch of frames to the views of its images and, last, their weights
    note: Callable[[], None]  # called while frames are decoded, so that the watchdog knows
    embed: Callable[[Tensor], Arguments] | None = None  # from views to the engine's arguments
    _source: Any = None

    def open(self, order: Order, first: int, last: int) -> None:
        """Open the frames for the steps first + 1 .. last. All ranks call it."""
        self.open_frames((last - first) * order.global_batch_size)

    def open_frames(self, images: int) -> None:
        """Open the frames; `images`: how many will be asked for. All ranks call it."""
        data, runtime = self.config.data, self.config.runtime
        self._source = open_frames(
            self.shards, data, runtime, self.place, images=images, note=self.note
        )

    @property
    def reads_shards(self) -> bool:
        """Whether batches come from the shards, and not from frames in memory."""
        return isinstance(self._source, StreamedFrames | NvjpegFrames)

    def batches(self, slices: Iterator[Slice], consumed: Consumed) -> Batches:
        """The engine's arguments for each slice; `consumed` is called with its samples."""
        pipeline = Pipeline(
            self._source,
            slices,
            self.config.seed,
            self.views,
            device=self.place.device,
            noisy_jpeg=self.config.data.jpeg_noise,
            workers=data_threads(self.config.runtime.workers),
            consumed=consumed,
        )
        if self.embed is None:
            yield from pipeline
            return
        for images, weights in pipeline:
            with torch.no_grad():
                embedded = self.embed(images)
            yield *embedded, weights

    def views_stored(self, order: Order, last: int) -> int:
        """View images that `open` computes for a run of `last` steps: none, views are not kept."""
        return 0


def trunk_views(size: int, scale: list[float]) -> Views:
    """What stage 2 shows the frozen trunk: one view of each image, and the weights.

    size: side of the views in pixels; scale: RandomResizedCrop's share of the area, low and high.
    """
    low, high = scale
    return partial(_one_view, size=size, scale=(low, high))


def _one_view(batch: Batch, size: int, scale: tuple[float, float]) -> Arguments:
    """Views (b, 3, size, size) of a batch, and weights (b,)."""
    images = correspondence_views(batch, size, scale)
    return images, batch.tensor(batch.slice.weights)
