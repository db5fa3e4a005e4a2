"""Frames that the GPU decodes (nvJPEG, through torchvision): for hosts with few cores to a GPU.

Its pixels differ from the CPU decoder's by some grey levels, so data.decoder is a setting of the
recipe. The ledger of such a run holds digests of the JPEG bytes, not of the pixels, which are
never in host memory.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scemae.data.decode import digests
from scemae.data.frame_sources import StreamedFrames
from scemae.data.geometry import frame_box
from scemae.data.picture import UnusablePicture, check_jpeg
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ConfigError

# JPEG bytes to (3, h, w) uint8 on the device.
Decode = Callable[[list[Tensor], torch.device], list[Tensor]]


def torchvision_decode(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
    """torchvision.io.decode_jpeg on a GPU, a batch at a time; RuntimeError where one is no JPEG."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)


class NvjpegFrames:
    """Frames on a GPU that are read and decoded on demand: pipeline.py does so a batch ahead."""

    def __init__(
        self, shards: ShardSet, size: int, device: torch.device, decode: Decode = torchvision_decode
    ) -> None:
        """Raises ConfigError where there is no GPU to decode on."""
        if decode is torchvision_decode and device.type != "cuda":
            raise ConfigError("data.decoder=nvjpeg: found no CUDA device; use data.decoder=cpu")
        self.shards, self.size, self.device, self._decode = shards, size, device, decode
        self._on_host = StreamedFrames(shards, size)
        # A stream of its own, so that decoding does not wait for training.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def gather(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Samples found (b,), digests (b, 16) of their JPEG bytes, frames (b, s, s, 3) uint8.

        The frames are on the device, and decoded when it returns.
        """
        if self._stream is None:
            return self._gather(samples)
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            found, hashes, frames = self._gather(samples)
            self._stream.synchronize()
        # Training reads them on the default stream: their memory must not be reused before.
        frames.record_stream(torch.cuda.default_stream(self.device))
        return found, hashes, frames

    def _gather(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
        jpegs = [np.frombuffer(self.shards.jpeg(sample), np.uint8) for sample in samples.tolist()]
        try:
            found, frames = samples, self._frames(jpegs)
        except (RuntimeError, UnusablePicture):
            # One is no JPEG: the CPU's decoder finds which, and the sample that takes its place.
            found, pixels = self._on_host.frames(samples)
            jpegs = [np.frombuffer(self.shards.jpeg(sample), np.uint8) for sample in found.tolist()]
            frames = torch.from_numpy(pixels).to(self.device)
        return found, digests(jpegs), frames

    def _frames(self, jpegs: list[np.ndarray]) -> Tensor:
        for jpeg in jpegs:
            check_jpeg(jpeg.tobytes())  # a header may ask for gigabytes
        images = self._decode([torch.from_numpy(jpeg.copy()) for jpeg in jpegs], self.device)
        return torch.stack([self._frame(image) for image in images])

    def _frame(self, image: Tensor) -> Tensor:
        """An image (3, h, w) uint8 to its frame (s, s, 3) uint8."""
        x0, y0, x1, y1 = frame_box(image.shape[2], image.shape[1])
        square = image[:, y0:y1, x0:x1]
        if square.shape[1] != self.size:
            resized = functional.interpolate(
                square[None].float(), (self.size, self.size), mode="bilinear", antialias=True
            )
            square = resized.round_().clamp_(0, 255).byte()[0]
        return square.permute(1, 2, 0)
