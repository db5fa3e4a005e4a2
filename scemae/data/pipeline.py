"""From shards to batches: order, read, decode, draw, device; what each stage's step is fed with.

Threads read and decode ahead (the decoder releases the GIL); resizing, cropping and colour are batched on the device.
A batch depends on (seed, epoch, sample) alone, so any number of ranks and threads gives the same pixels.
"""

import io
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from scemae.data import randomness, views
from scemae.data.order import Order, Slice
from scemae.data.reader import ShardSet
from scemae.errors import ShardError

STAND_INS = 8  # samples tried for one place in a batch
ROWS = slice(30, 208)  # CelebA's aligned 178x218 image to its 178x178 frame (PROTOCOL 2.4)


@dataclass
class Batch:
    """One micro-batch on the device: uint8 images (b, 3, s, s), the slice of the order they are, the seed."""

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
        return torch.from_numpy(numbers.astype(np.float32)).to(self.images.device, non_blocking=True)


def decode(data: bytes, size: int) -> np.ndarray:
    """JPEG bytes to the square frame (size, size, 3) uint8: rows 30..207 of an aligned CelebA image, else the
    central square; resized (PIL, bilinear) where that is not yet `size`. Raises ValueError on what is no JPEG."""
    image = simplejpeg.decode_jpeg(data)
    if image.shape[:2] == (218, 178):
        image = image[ROWS]
    elif image.shape[0] != image.shape[1]:
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        image = image[top:top + side, left:left + side]
    return image if len(image) == size else resize(image, size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A square uint8 image to (size, size, 3), PIL's bilinear."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def jpeg_noise(image: np.ndarray, u: float, z: float) -> np.ndarray:
    """DVE's JPEG noise (PROTOCOL 3.1): up or down to max(0.8 W, W (1 + z / 2)), JPEG at quality 30..98, and back.

    u in [0, 1), z standard normal.
    """
    width = image.shape[1]
    other = resize(image, int(max(0.8, 1 + 0.5 * z) * width))
    buffer = io.BytesIO()
    Image.fromarray(other).save(buffer, "JPEG", quality=30 + int(u * 69))
    return resize(simplejpeg.decode_jpeg(buffer.getvalue()), width)


Consumed = Callable[[Slice, np.ndarray, np.ndarray], None]  # a slice, the samples really in it, their pixels


class Pipeline:
    """An endless iterator of micro-batches from a global step on; `waited` sums the seconds spent waiting for data."""

    def __init__(self, shards: ShardSet, order: Order, *, rank: int, world_size: int, accumulation_steps: int,
                 start_step: int, device: torch.device, frame: int, noisy_jpeg: bool = False, workers: int = 2,
                 skips: Container[int] = (), consumed: Consumed = lambda *_: None) -> None:
        """`skips`: global steps to leave out. `consumed` is told of every micro-batch as it is handed over."""
        self.shards, self.order, self.device, self.noisy_jpeg = shards, order, device, noisy_jpeg
        self.waited, self._consumed = 0.0, consumed
        # The 178 frame of CelebA shrinks to 136 before JPEG noise and crops of stage 2 (PROTOCOL 4.3).
        self._decode = partial(decode, size=frame)
        self._slices = (part for step in _count(start_step) if step + 1 not in skips
                        for part in order.slices(step, rank, world_size, accumulation_steps))
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._chunk, self._ahead = 16, 3

    def __iter__(self) -> Iterator[Batch]:
        queue: deque[tuple[Slice, list[Future]]] = deque()
        try:
            while True:
                while len(queue) < self._ahead:
                    queue.append(self._submit(next(self._slices)))
                part, futures = queue.popleft()
                started = time.perf_counter()
                samples, frames = zip(*(future.result() for future in futures))
                self.waited += time.perf_counter() - started
                collated = np.concatenate(frames)
                self._consumed(part, np.concatenate(samples), collated)
                images = torch.from_numpy(collated).permute(0, 3, 1, 2)
                yield Batch(images.to(self.device, non_blocking=True), part, self.order.seed)
        finally:
            self._threads.shutdown(cancel_futures=True)

    def _submit(self, part: Slice) -> tuple[Slice, list[Future]]:
        rows = range(0, len(part.samples), self._chunk)
        return part, [self._threads.submit(self.frames, part, slice(row, row + self._chunk)) for row in rows]

    def frames(self, part: Slice, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Some rows of a slice: the samples (b,) that were found, and their pixels (b, s, s, 3) uint8."""
        samples, epochs = part.samples[rows], part.epochs[rows]
        found, frames = zip(*(self._frame(sample) for sample in samples))
        if self.noisy_jpeg:
            u = randomness.uniform(self.order.seed, epochs, samples, randomness.JPEG_QUALITY, 1)[:, 0]
            z = randomness.normal(self.order.seed, epochs, samples, randomness.JPEG_SIZE, 1)[:, 0]
            frames = [jpeg_noise(*each) for each in zip(frames, u, z)]
        return np.array(found), np.stack(frames)

    def _frame(self, sample: int) -> tuple[int, np.ndarray]:
        """The frame of a sample, and whose it is: where one is no JPEG the next of the shards stands in for it, so
        that the batch keeps its size and order on any number of ranks."""
        for stand_in in range(sample, sample + STAND_INS):
            try:
                return stand_in % len(self.shards), self._decode(self.shards.jpeg(stand_in % len(self.shards)))
            except ValueError as error:
                reason = error
        raise ShardError(f"{self.shards.folder}: sample {self.shards.keys[sample]} is no whole JPEG ({reason}), nor are "
                         f"the {STAND_INS - 1} after it; run `scemae shards verify` and rebuild the shards")


def _count(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1


def pretraining_views(batch: Batch, size: int, scale: tuple[float, float], patches: int) -> tuple[Tensor, Tensor]:
    """Stage 1 (PROTOCOL 2.4): bicubic RandomResizedCrop and flip, normalised (b, 3, size, size); mask noise (b, n)."""
    boxes = views.crop_boxes(batch.uniform(randomness.CROP, 40), batch.images.shape[-1], scale)
    flip = batch.tensor(batch.uniform(randomness.FLIP, 1))[:, 0] < 0.5
    images = views.resized_crop(batch.images, boxes, size, "bicubic", flip)
    return views.normalise(images), batch.tensor(batch.uniform(randomness.MASK, patches))


def correspondence_views(batch: Batch, size: int, scale: tuple[float, float]) -> Tensor:
    """Stage 2 (CL's, PROTOCOL 4.3): bilinear RandomResizedCrop of the frame, jitter 0.4, PCA lighting 0.1, centre crop.

    Returns normalised images (b, 3, size, size).
    """
    boxes = views.crop_boxes(batch.uniform(randomness.CROP, 40), batch.images.shape[-1], scale)
    images = views.resized_crop(batch.images, boxes, batch.images.shape[-1], "bilinear")
    colour = batch.uniform(randomness.COLOUR, 6)
    order = torch.from_numpy(colour[:, 3:].argsort(1)).to(images.device)
    images = views.jitter(images, batch.tensor(0.6 + 0.8 * colour[:, :3]), order)
    alpha = batch.tensor(0.1 * batch.normal(randomness.LIGHTING, 3))
    return views.normalise(views.centre_crop(views.lighting(images, alpha), size))
