"""A trunk's maps of many frames, computed once and kept in half precision, as the features of any head on them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scemae import memory
from scemae.errors import CheckpointError, ConfigError
from scemae.landmarks.features import Head, Trunk


@torch.no_grad()
def cache_maps(trunk: Trunk, images: Tensor, stride: int, *, batch: int, device: torch.device,
               progress: Callable[[int], Any] = lambda count: None) -> list[Tensor]:
    """What `trunk` makes of images (n, 3, 136, 136) uint8: its maps (n, d_i, h_i, w_i), fp16 on the CPU.

    fp16 is our choice: fp32 would be 90 GB for MAFL's training set and DeiT-S (PROTOCOL 5.3). `progress(count)` is told of
    each batch. Raises ConfigError, after one batch, where memory will not hold them, CheckpointError where they are not finite.
    """
    kept: list[Tensor] = []
    for start in range(0, len(images), batch):
        maps = trunk.maps(images[start:start + batch].to(device).float() / 255, stride)
        if not kept:
            _check_memory(trunk, len(images), [part.shape[1:] for part in maps])
            kept = [torch.empty((len(images), *part.shape[1:]), dtype=torch.float16) for part in maps]
        for whole, part in zip(kept, maps):
            whole[start:start + batch] = part.half().cpu()
            if not whole[start:start + batch].isfinite().all():
                raise CheckpointError(f"{trunk.model}: its features are not finite in half precision; the checkpoint is of a run "
                                      "that diverged, take an earlier one")
        progress(min(batch, len(images) - start))
    return kept


class Cached:
    """Cached maps seen through a head: features (n, d, side, side) that are made when asked for, a batch at a time."""

    def __init__(self, maps: list[Tensor], head: Head, side: int, device: torch.device) -> None:
        self._maps, self._head, self._side, self._device = maps, head, side, device
        self.shape = torch.Size((len(maps[0]), *self[:1].shape[1:]))

    def __len__(self) -> int:
        return len(self._maps[0])

    @torch.no_grad()
    def __getitem__(self, rows: Any) -> Tensor:
        return self._head([part[rows].to(self._device).float() for part in self._maps], self._side)

    def split(self, size: int) -> Any:
        """Features of `size` images at a time."""
        return (self[start:start + size] for start in range(0, len(self), size))


def _check_memory(trunk: Trunk, images: int, shapes: list[torch.Size]) -> None:
    needed, free = 2 * images * sum(map(math.prod, shapes)), memory.available()
    if needed > 0.9 * free:
        raise ConfigError(f"{trunk.model}: its maps of {images:,} images need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
                          "use a larger stride (twice the stride needs a quarter), fewer images or more memory")
