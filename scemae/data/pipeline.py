"""From the order of samples to the tensors of a step: slices, frames, views, in a bounded queue.

Threads decode frames, or gather them from memory, some batches ahead. On a CPU they also cut the
views; a GPU gets whole uint8 batches and cuts its own. A batch depends on (seed, epoch, sample)
alone, so any number of ranks and threads, and every source of frames, give the same pixels.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scemae.data import augment, randomness
from scemae.data.augment import to_device
from scemae.data.decode import digests
from scemae.data.frame_cache import DeviceFrames
from scemae.data.frame_sources import FrameSource, consumed_frames
from scemae.data.nvjpeg import NvjpegFrames
from scemae.data.order import Slice

CHUNK, AHEAD = 32, 3  # images per job of a thread for a GPU; micro-batches in the queue


@dataclass
class Batch:
    """Images of one micro-batch, uint8 (b, 3, s, s), with the slice that drew them and the seed."""

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
        """Numbers as float32 on the device of the images."""
        return to_device(torch.from_numpy(numbers.astype(np.float32)), self.images.device)


Views = Callable[[Batch], tuple[Tensor, ...]]
# Called with a slice, the samples (b,) found and the digests (b, 16) of their frames.
Consumed = Callable[[Slice, np.ndarray, np.ndarray], None]


class Pipeline:
    """An iterator over the views of each slice of the order; `views` cuts them from frames."""

    def __init__(
        self,
        source: FrameSource | DeviceFrames | NvjpegFrames,
        slices: Iterator[Slice],
        seed: int,
        views: Views,
        *,
        device: torch.device,
        noisy_jpeg: bool = False,
        workers: int = 2,
        consumed: Consumed = lambda *_: None,
    ) -> None:
        """`consumed` is called for each micro-batch just before it is yielded."""
        self.source, self.slices, self.seed, self.views = source, slices, seed, views
        self.device, self._noisy_jpeg = device, noisy_jpeg
        self._workers, self._consumed = workers, consumed

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if isinstance(self.source, NvjpegFrames):
            return self._decoded_by_the_gpu(self.source)
        if isinstance(self.source, DeviceFrames):
            return self._gathered_on_the_device(self.source)
        return self._by_threads(self.source)

    def _gathered_on_the_device(self, source: DeviceFrames) -> Iterator[tuple[Tensor, ...]]:
        for part in self.slices:
            yield self._device_views(part, *source.gather(part.samples))

    def _decoded_by_the_gpu(self, source: NvjpegFrames) -> Iterator[tuple[Tensor, ...]]:
        """A thread reads and decodes one batch ahead, while the device trains on the one before."""
        with ThreadPoolExecutor(1, "decode") as thread:
            waiting: tuple[Slice, Future] | None = None
            for part in self.slices:
                submitted = part, thread.submit(source.gather, part.samples)
                if waiting is not None:
                    yield self._device_views(waiting[0], *waiting[1].result())
                waiting = submitted
            if waiting is not None:
                yield self._device_views(waiting[0], *waiting[1].result())

    def _device_views(
        self, part: Slice, found: np.ndarray, hashes: np.ndarray, frames: Tensor
    ) -> tuple[Tensor, ...]:
        self._consumed(part, found, hashes)
        return self.views(Batch(frames.permute(0, 3, 1, 2), part, self.seed))

    def _by_threads(self, source: FrameSource) -> Iterator[tuple[Tensor, ...]]:
        submit = self._submit_views if self.device.type == "cpu" else self._submit_frames
        queue: deque[Callable[[], tuple[Tensor, ...]]] = deque()  # each waits for one micro-batch
        # One core each: torch's own threads under them would take the cores that train.
        threads = ThreadPoolExecutor(
            self._workers, "data", initializer=torch.set_num_threads, initargs=(1,)
        )
        try:
            for part in self.slices:
                queue.append(submit(threads, source, part))
                if len(queue) > AHEAD:
                    yield queue.popleft()()
            while queue:
                yield queue.popleft()()
        finally:
            threads.shutdown(cancel_futures=True)

    def _submit_views(
        self, threads: ThreadPoolExecutor, source: FrameSource, part: Slice
    ) -> Callable[[], tuple[Tensor, ...]]:
        """For a CPU: the threads also cut the views."""
        rows = _chunks(len(part), -(-len(part) // max(self._workers // AHEAD, 1)))
        futures = [threads.submit(self._cut, source, part[chunk]) for chunk in rows]
        return partial(self._take_views, part, futures)

    def _cut(
        self, source: FrameSource, part: Slice
    ) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, ...]]:
        """In a thread: samples found, digests of their frames, and views of some rows."""
        found, frames = consumed_frames(source, part, self.seed, self._noisy_jpeg)
        batch = Batch(torch.from_numpy(frames).permute(0, 3, 1, 2), part, self.seed)
        return found, digests(frames), self.views(batch)

    def _take_views(self, part: Slice, futures: list[Future]) -> tuple[Tensor, ...]:
        found, hashes, views = zip(*(future.result() for future in futures))
        self._consumed(part, np.concatenate(found), np.concatenate(hashes))
        if len(views) == 1:
            return views[0]
        return tuple(torch.cat(column) for column in zip(*views))

    def _submit_frames(
        self, threads: ThreadPoolExecutor, source: FrameSource, part: Slice
    ) -> Callable[[], tuple[Tensor, ...]]:
        """For a GPU: the threads fill pinned memory, from which the whole batch is copied."""
        shape, on_cuda = (len(part), source.size, source.size, 3), self.device.type == "cuda"
        pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=on_cuda)
        futures = [
            threads.submit(self._fill, source, part[chunk], pinned[chunk])
            for chunk in _chunks(len(part), CHUNK)
        ]
        return partial(self._take_frames, part, pinned, futures)

    def _fill(
        self, source: FrameSource, part: Slice, pinned: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """In a thread: frames of some rows into `pinned`; samples found, digests of the frames."""
        found, frames = consumed_frames(source, part, self.seed, self._noisy_jpeg)
        pinned.numpy()[:] = frames
        return found, digests(frames)

    def _take_frames(
        self, part: Slice, pinned: Tensor, futures: list[Future]
    ) -> tuple[Tensor, ...]:
        found, hashes = zip(*(future.result() for future in futures))
        images = pinned.to(self.device, non_blocking=True)
        return self._device_views(part, np.concatenate(found), np.concatenate(hashes), images)


def _chunks(count: int, chunk: int) -> list[slice]:
    return [slice(row, row + chunk) for row in range(0, count, chunk)]


def pretraining_views(
    batch: Batch, size: int, scale: tuple[float, float], patches: int
) -> tuple[Tensor, ...]:
    """Stage 1 (PROTOCOL 2.4): bicubic RandomResizedCrop and flip.

    Returns normalised images (b, 3, size, size), mask noise (b, n) in [0, 1) for the n = `patches`
    patches, and the weight of each image (b,).
    """
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
    """Stage 2 (CL's, PROTOCOL 4.3): bilinear RandomResizedCrop, jitter, PCA lighting, centre crop.

    Returns normalised images (b, 3, size, size). Another `view` is another, independent draw.
    """
    boxes = augment.crop_boxes(
        batch.uniform(randomness.CROP + view * randomness.VIEW, 40), batch.images.shape[-1], scale
    )
    images = augment.resized_crop(batch.images, boxes, batch.images.shape[-1], "bilinear") / 255
    return augment.normalise(augment.centre_crop(recoloured(batch, images, view), size))


def recoloured(batch: Batch, images: Tensor, view: int) -> Tensor:
    """Images (b, 3, h, w) in [0, 1] with jitter 0.4 and PCA lighting 0.1 (PROTOCOL 3.1).

    The strengths belong to the samples of `batch` and to the number of the `view`.
    """
    colour = batch.uniform(randomness.COLOUR + view * randomness.VIEW, 6)
    order = to_device(torch.from_numpy(colour[:, 3:].argsort(1)), images.device)
    images = augment.jitter(images, batch.tensor(0.6 + 0.8 * colour[:, :3]), order)
    return augment.lighting(
        images, batch.tensor(0.1 * batch.normal(randomness.LIGHTING + view * randomness.VIEW, 3))
    )


def crop_pairs(batch: Batch, size: int, scale: tuple[float, float]) -> tuple[Tensor, ...]:
    """The centre of each frame, and two independent bicubic RandomResizedCrops of it.

    Returns three times normalised images (b, 3, size, size), then the crops' boxes: top, left,
    height and width in pixels of the frame, (b, 4) and (b, 4).
    """
    centre = augment.normalise(augment.centre_crop(batch.images, size))
    crops, places = [], []
    for view in range(2):
        draws = batch.uniform(randomness.CROP + view * randomness.VIEW, 40)
        boxes = augment.crop_boxes(draws, batch.images.shape[-1], scale)
        crop = augment.resized_crop(batch.images, boxes, size, "bicubic")
        crops.append(augment.normalise(crop))
        places.append(batch.tensor(np.stack(boxes, axis=1)))
    return centre, *crops, *places


def view_pairs(batch: Batch, size: int, scale: tuple[float, float]) -> tuple[Tensor, ...]:
    """Stage 1 of CL (PROTOCOL 4.1): two independent `correspondence_views` of each image.

    Returns both, (b, 3, size, size), and the weight of each image (b,). The two share one frame,
    and with data.jpeg_noise one draw of it.
    """
    first, second = (correspondence_views(batch, size, scale, view=view) for view in range(2))
    return first, second, batch.tensor(batch.slice.weights)
