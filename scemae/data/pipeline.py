"""From the order of samples to the tensors a step is fed with: frames, draw, views, in a bounded queue.

Threads decode, or gather what is resident, some batches ahead. On a CPU they also cut the views; a GPU gets whole
uint8 batches and cuts its own. A batch depends on (seed, epoch, sample) alone, so any number of ranks, threads and
either tier of data give the same pixels.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scemae.data import augment, randomness
from scemae.data.augment import to_device
from scemae.data.decode import consumed_frames, digests
from scemae.data.order import Slice

CHUNK, AHEAD = 32, 3  # images per job of a thread for a GPU; micro-batches in the queue

Consumed = Callable[
    [Slice, np.ndarray, np.ndarray], None
]  # a slice, samples (b,) found, digests (b, 16) of their frames
Views = Callable[["Batch"], tuple[Tensor, ...]]


@dataclass
class Batch:
    """Some images of one micro-batch: uint8 (b, 3, s, s), the slice of the order they are, the seed."""

    images: Tensor
    slice: Slice
    seed: int

    def uniform(self, purpose: int, count: int) -> np.ndarray:
        """Numbers in [0, 1) that belong to each (epoch, sample), (b, count)."""
        return randomness.uniform(self.seed, self.slice.epochs, self.slice.samples, purpose, count)

    def normal(self, purpose: int, count: int) -> np.ndarray:
        """Standard normal numbers that belong to each (epoch, sample), (b, count)."""
        return randomness.normal(self.seed, self.slice.epochs, self.slice.samples, purpose, count)

    def tensor(self, numbers: np.ndarray) -> Tensor:
        """Numbers as float32 beside the images."""
        return to_device(torch.from_numpy(numbers.astype(np.float32)), self.images.device)


class Pipeline:
    """An iterator of what `views` gives for each slice, in order."""

    def __init__(
        self,
        source: Any,
        slices: Iterator[Slice],
        seed: int,
        views: Views,
        *,
        device: torch.device,
        noisy_jpeg: bool = False,
        workers: int = 2,
        consumed: Consumed = lambda *_: None,
    ) -> None:
        """`source` of frames: see decode.py, and frame_cache.py for one on the device. `consumed` is told of every
        micro-batch as it is handed over."""
        self.source, self.slices, self.seed, self.views = source, slices, seed, views
        self.device, self._noisy_jpeg, self._workers, self._consumed = (
            device,
            noisy_jpeg,
            workers,
            consumed,
        )

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self.source.is_on_device:
            yield from (
                self._decoded_ahead() if self.source.is_slow else map(self._gather, self.slices)
            )
            return
        queue: deque[tuple[Slice, Tensor | None, list[Future]]] = deque()
        # One core each: torch's own threads under them would spin on the cores that train.
        threads = ThreadPoolExecutor(
            self._workers, "data", initializer=torch.set_num_threads, initargs=(1,)
        )
        try:
            for part in self.slices:
                queue.append(self._submit(threads, part))
                if len(queue) > AHEAD:
                    yield self._collate(*queue.popleft())
            while queue:
                yield self._collate(*queue.popleft())
        finally:
            threads.shutdown(cancel_futures=True)

    def _submit(
        self, threads: ThreadPoolExecutor, part: Slice
    ) -> tuple[Slice, Tensor | None, list[Future]]:
        count = len(part.samples)
        chunk = -(-count // max(self._workers // AHEAD, 1)) if self.device.type == "cpu" else CHUNK
        rows = [slice(row, row + chunk) for row in range(0, count, chunk)]
        if self.device.type == "cpu":
            return part, None, [threads.submit(self._cut, part[chunk]) for chunk in rows]
        s = self.source.size
        pinned = torch.empty(
            count, s, s, 3, dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        return (
            part,
            pinned,
            [threads.submit(self._stage, part[chunk], pinned[chunk]) for chunk in rows],
        )

    def _cut(self, part: Slice) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, ...]]:
        """In a thread, for a CPU: samples found, their digests, and the views of some rows."""
        found, frames = consumed_frames(self.source, part, self.seed, self._noisy_jpeg)
        batch = Batch(torch.from_numpy(frames).permute(0, 3, 1, 2), part, self.seed)
        return found, digests(frames), self.views(batch)

    def _stage(self, part: Slice, pinned: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """In a thread, for a GPU: frames of some rows into the batch that will travel."""
        found, frames = consumed_frames(self.source, part, self.seed, self._noisy_jpeg)
        pinned.numpy()[:] = frames
        return found, digests(frames)

    def _collate(
        self, part: Slice, pinned: Tensor | None, futures: list[Future]
    ) -> tuple[Tensor, ...]:
        found, hashes, *cut = zip(*(future.result() for future in futures))
        self._consumed(part, np.concatenate(found), np.concatenate(hashes))
        if pinned is None:
            return (
                cut[0][0]
                if len(futures) == 1
                else tuple(torch.cat(column) for column in zip(*cut[0]))
            )
        images = pinned.to(self.device, non_blocking=True)
        return self.views(Batch(images.permute(0, 3, 1, 2), part, self.seed))

    def _decoded_ahead(self) -> Iterator[tuple[Tensor, ...]]:
        """Of a source that reads and decodes: in a thread that is a batch ahead, while the device trains on the one before."""
        with ThreadPoolExecutor(1, "decode") as thread:
            before: tuple[Slice, Future] | None = None
            for part in self.slices:
                now = part, thread.submit(self.source.gather, part.samples)
                if before is not None:
                    yield self._hand_over(before[0], *before[1].result())
                before = now
            if before is not None:
                yield self._hand_over(before[0], *before[1].result())

    def _gather(self, part: Slice) -> tuple[Tensor, ...]:
        return self._hand_over(part, *self.source.gather(part.samples))

    def _hand_over(
        self, part: Slice, found: np.ndarray, hashes: np.ndarray, images: Tensor
    ) -> tuple[Tensor, ...]:
        self._consumed(part, found, hashes)
        return self.views(Batch(images.permute(0, 3, 1, 2), part, self.seed))


def pretraining_views(
    batch: Batch, size: int, scale: tuple[float, float], patches: int
) -> tuple[Tensor, ...]:
    """Stage 1 (PROTOCOL 2.4): bicubic RandomResizedCrop and flip, normalised (b, 3, size, size); mask noise (b, n);
    the weight of each image (b,)."""
    boxes = augment.crop_boxes(batch.uniform(randomness.CROP, 40), batch.images.shape[-1], scale)
    flip = batch.tensor(batch.uniform(randomness.FLIP, 1))[:, 0] < 0.5
    images = augment.resized_crop(batch.images, boxes, size, "bicubic", flip)
    return (
        augment.normalise(images),
        batch.tensor(batch.uniform(randomness.MASK, patches)),
        batch.tensor(batch.slice.weights),
    )


def correspondence_views(
    batch: Batch, size: int, scale: tuple[float, float], *, view: int = 0
) -> Tensor:
    """Stage 2 (CL's, PROTOCOL 4.3): bilinear RandomResizedCrop of the frame, jitter 0.4, PCA lighting 0.1, centre crop.

    Returns normalised images (b, 3, size, size). Another `view` is another, independent draw.
    """
    boxes = augment.crop_boxes(
        batch.uniform(randomness.CROP + view * randomness.VIEW, 40), batch.images.shape[-1], scale
    )
    images = augment.resized_crop(batch.images, boxes, batch.images.shape[-1], "bilinear") / 255
    return augment.normalise(augment.centre_crop(recoloured(batch, images, view), size))


def recoloured(batch: Batch, images: Tensor, view: int) -> Tensor:
    """Jitter 0.4 and PCA lighting 0.1 (PROTOCOL 3.1) of the batch's images (b, 3, h, w) in [0, 1], as drawn for `view`."""
    colour = batch.uniform(randomness.COLOUR + view * randomness.VIEW, 6)
    order = to_device(torch.from_numpy(colour[:, 3:].argsort(1)), images.device)
    images = augment.jitter(images, batch.tensor(0.6 + 0.8 * colour[:, :3]), order)
    return augment.lighting(
        images, batch.tensor(0.1 * batch.normal(randomness.LIGHTING + view * randomness.VIEW, 3))
    )


def view_pairs(batch: Batch, size: int, scale: tuple[float, float]) -> tuple[Tensor, ...]:
    """Stage 1 of CL (PROTOCOL 4.1): two independent views of each image, each as `correspondence_views` makes them,
    (b, 3, size, size); the weight of each image (b,). Both come of one frame, with one draw of JPEG noise where there is."""
    first, second = (correspondence_views(batch, size, scale, view=view) for view in range(2))
    return first, second, batch.tensor(batch.slice.weights)
