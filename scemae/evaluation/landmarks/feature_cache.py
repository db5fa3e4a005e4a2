"""A trunk's maps of many frames, computed once and kept in half precision, and the features of
heads on them.

The maps stay on the device where they fit beside the training of a regressor; otherwise on the
host, from where each batch is copied through page-locked memory while the device works on the one
before.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from scemae.data.augment import to_device
from scemae.distributed import host_memory
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.landmarks.features import Head, Trunk

# Share of the device's free memory that the maps of one set of frames may take: training needs the
# rest.
SHARE = 0.6


@torch.no_grad()
def cache_maps(
    trunk: Trunk,
    images: Tensor,
    stride: int,
    *,
    batch: int,
    device: torch.device,
    advance: Callable[[int], object] = lambda images: None,
) -> list[Tensor]:
    """The trunk's maps (n, d_i, h_i, w_i) of images (n, 3, 136, 136) uint8, fp16, on `device` if it
    has room.

    fp16 is our choice: fp32 would be 90 GB for MAFL's training set and DeiT-S (PROTOCOL 5.3).
    `advance(count)` is called after each batch. Raises ConfigError, after one batch, where memory
    cannot hold the maps, CheckpointError where they are not finite.
    """
    kept: list[Tensor] = []
    is_finite = torch.ones((), dtype=torch.bool, device=device)
    for start in range(0, len(images), batch):
        maps = trunk.maps(to_device(images[start : start + batch], device).float() / 255, stride)
        is_first = not kept
        if is_first:
            place = choose_place(trunk, len(images), [part.shape[1:] for part in maps], device)
            kept = [
                torch.empty((len(images), *part.shape[1:]), dtype=torch.float16, device=place)
                for part in maps
            ]
        for whole, part in zip(kept, maps, strict=True):
            part = part.half()
            is_finite &= part.isfinite().all()
            whole[start : start + batch] = part
        if is_first:
            # A run that diverged is reported at once. Later batches are checked together at the
            # end: a check of each would make the host wait for the device.
            refuse_infinite(trunk, is_finite)
        advance(min(batch, len(images) - start))
    refuse_infinite(trunk, is_finite)
    return kept


def choose_place(
    trunk: Trunk, images: int, shapes: list[torch.Size], device: torch.device
) -> torch.device:
    """Where maps of `shapes` of all images go: the device, or the host if it lacks room. Raises
    ConfigError.
    """
    needed, host = 2 * images * sum(map(math.prod, shapes)), torch.device("cpu")
    if device != host and needed <= SHARE * host_memory.free(device):
        return device
    if needed > 0.9 * (free := host_memory.available()):
        raise ConfigError(
            f"{trunk.model}: its maps of {images:,} images need {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; use a larger stride (twice the stride needs a "
            "quarter), fewer images or more memory"
        )
    return host


def refuse_infinite(trunk: Trunk, is_finite: Tensor) -> None:
    """Raise CheckpointError unless `is_finite`, a bool on any device, is true."""
    if not is_finite:
        raise CheckpointError(
            f"{trunk.model}: its features are not finite in half precision; the checkpoint is of a "
            "run that diverged, take an earlier one"
        )


def rows_on(device: torch.device, kept: Tensor, rows: Any) -> Tensor:
    """`kept[rows]` on the device, without waiting for the copy; rows: a slice, or indices (b,) on
    the CPU.
    """
    if isinstance(rows, slice):
        return to_device(kept[rows], device) if kept.device.type == "cpu" else kept[rows]
    if kept.device.type != "cpu":
        return kept[to_device(rows, device)]
    return gather(kept, rows, is_pinned=device.type == "cuda").to(device, non_blocking=True)


def gather(kept: Tensor, rows: Tensor, *, is_pinned: bool) -> Tensor:
    """`kept[rows]` on the host, page-locked for an asynchronous copy; torch frees it after the
    copy.
    """
    found = torch.empty((len(rows), *kept.shape[1:]), dtype=kept.dtype, pin_memory=is_pinned)
    return torch.index_select(kept, 0, rows, out=found)


class Cached:
    """Features (n, d, side, side) of one head on cached maps, computed when asked for, a batch at a
    time.
    """

    def __init__(self, maps: list[Tensor], head: Head, side: int, device: torch.device) -> None:
        self._maps, self._head, self._side, self._device = maps, head, side, device
        self.shape = torch.Size((len(maps[0]), *self[:1].shape[1:]))

    def __len__(self) -> int:
        return len(self._maps[0])

    @torch.no_grad()
    def __getitem__(self, rows: Any) -> Tensor:
        maps = [rows_on(self._device, part, rows).float() for part in self._maps]
        return self._head(maps, self._side)

    def split(self, size: int) -> Iterator[Tensor]:
        """Features of `size` images at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))


class Weighted:
    """Some rows of features (n, d, h, w), each channel times its weight."""

    def __init__(self, features: "Features", weights: Tensor, rows: Tensor | None) -> None:
        """weights (d,); rows (m,) on the CPU, None: all."""
        self._features, self._weights = features, weights[:, None, None]
        self._rows = torch.arange(len(features)) if rows is None else rows
        self.shape: torch.Size = torch.Size((len(self._rows), *features.shape[1:]))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> Tensor:
        found = self._features[self._rows[rows]]
        return found * self._weights.to(found.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Features of `size` images at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))


# (n, d, h, w): what regressors are trained and tested on
Features = Tensor | Cached | Weighted
