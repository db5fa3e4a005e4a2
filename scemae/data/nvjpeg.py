"""Streaming with the GPU as the decoder (nvJPEG, through torchvision): for hosts with few cores to a GPU.

Its pixels differ from the CPU decoder's by some grey levels, so data.decoder is a setting of the recipe. The ledger of
such a run holds digests of the JPEG bytes, not of pixels, which never visit the host.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scemae.data.decode import Streaming, digests, square
from scemae.data.picture import UnusablePicture, check_jpeg
from scemae.data.storage.shard_set import ShardSet
from scemae.errors import ConfigError

Decode = Callable[
    [list[Tensor], torch.device], list[Tensor]
]  # JPEG bytes to (3, h, w) uint8 on the device


def torchvision_decode(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
    """torchvision.io.decode_jpeg on a GPU, a batch at a time; RuntimeError where one is no JPEG."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)


class NvJpeg:
    """A source of frames on the device, read and decoded when they are asked for: by a thread that is ahead (pipeline.py)."""

    is_on_device, is_slow = True, True

    def __init__(
        self, shards: ShardSet, size: int, device: torch.device, decode: Decode = torchvision_decode
    ) -> None:
        """Raises ConfigError where there is no GPU to decode on."""
        if decode is torchvision_decode and device.type != "cuda":
            raise ConfigError("data.decoder=nvjpeg: found no CUDA device; use data.decoder=cpu")
        self.shards, self.size, self.device, self._decode = shards, size, device, decode
        self._on_host = Streaming(shards, size)
        self._stream = (
            torch.cuda.Stream(device) if device.type == "cuda" else None
        )  # beside that of training

    def gather(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Samples found (b,), digests (b, 16) of their JPEG bytes, and frames (b, s, s, 3) uint8 on the device, which are there
        when it returns."""
        if self._stream is None:
            return self._gather(samples)
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            found, hashes, frames = self._gather(samples)
            self._stream.synchronize()
        frames.record_stream(
            torch.cuda.default_stream(self.device)
        )  # training reads them there: their memory is its until then
        return found, hashes, frames

    def _gather(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
        jpegs = [np.frombuffer(self.shards.jpeg(sample), np.uint8) for sample in samples.tolist()]
        try:
            found, frames = samples, self._frames(jpegs)
        except (
            RuntimeError,
            UnusablePicture,
        ):  # one is no JPEG: the host finds which, and what stands in for it
            found, pixels = self._on_host.frames(samples)
            jpegs = [np.frombuffer(self.shards.jpeg(sample), np.uint8) for sample in found.tolist()]
            frames = torch.from_numpy(pixels).to(self.device)
        return found, digests(jpegs), frames

    def _frames(self, jpegs: list[np.ndarray]) -> Tensor:
        for jpeg in jpegs:
            check_jpeg(jpeg.tobytes())  # a header may ask for gigabytes
        images = self._decode([torch.from_numpy(jpeg.copy()) for jpeg in jpegs], self.device)
        squares = [square(image.permute(1, 2, 0)) for image in images]
        return torch.stack(
            [image if len(image) == self.size else self._resize(image) for image in squares]
        )

    def _resize(self, image: Tensor) -> Tensor:
        planes = image.permute(2, 0, 1)[None].float()
        resized = functional.interpolate(
            planes, (self.size, self.size), mode="bilinear", antialias=True
        )
        return resized.round_().clamp_(0, 255).byte()[0].permute(1, 2, 0)
