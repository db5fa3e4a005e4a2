"""Frames kept in memory where they fit, decoded once; else streamed from the shards.

A batch of kept frames is a gather by index, at any place of the order, so a resumed run decodes
nothing before its place. One copy per node lies in memory that its ranks share (it has no name, and
is freed with the last of them, however they end); a GPU with enough memory gets its own copy. Where
the frames come from changes no pixel: all are decoded by decode.py.
"""

import mmap
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from scemae.config.schema.training import Data, Runtime
from scemae.data.augment import to_device
from scemae.data.decode import digests
from scemae.data.decode_processes import streamed_frames
from scemae.data.frame_sources import StreamedFrames
from scemae.data.nvjpeg import NvjpegFrames
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed import host_memory
from scemae.distributed.process_group import Place, barrier, data_threads
from scemae.errors import ConfigError
from scemae.process.progress import progress_bar

# Cheapest tier first; ranks agree on the lowest common one.
STREAMING, HOST, GPU = TIERS = ("streaming", "host", "gpu")
SHARE = 0.5  # of the free memory that frames may take; the rest is the model's
CHUNK = 64  # frames decoded by a thread at a time


class HostFrames:
    """All frames in host memory: pixels (n, s, s, 3) uint8, digests (n, 16), found (n,) int64.

    `found` are the samples whose frames these really are.
    """

    def __init__(self, block: np.ndarray, count: int, size: int) -> None:
        """`block` of row_bytes(size) * count uint8 is the memory that holds them."""
        self.size = size
        self.found = block[: 8 * count].view(np.int64)
        self.digests = block[8 * count : 24 * count].reshape(count, 16)
        self.pixels = block[24 * count : row_bytes(size) * count].reshape(count, size, size, 3)

    def frames(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As frame_sources.FrameSource."""
        return self.found[samples], self.pixels[samples]

    def decode(self, source: StreamedFrames, samples: np.ndarray) -> None:
        """Fill in the rows of `samples`. Raises ShardError."""
        self.found[samples], frames = source.frames(samples)
        self.pixels[samples], self.digests[samples] = frames, digests(frames)


class DeviceFrames:
    """All frames on a GPU; their digests were taken on the host when they were decoded."""

    def __init__(self, host: HostFrames, device: torch.device) -> None:
        self.size, self.device = host.size, device
        self.digests, self.found = host.digests.copy(), host.found.copy()
        self.pixels = torch.empty(host.pixels.shape, dtype=torch.uint8, device=device)
        for row in range(0, len(self.found), 4096):
            part = torch.from_numpy(host.pixels[row : row + 4096])
            self.pixels[row : row + 4096] = part.to(device)

    def gather(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Samples found (b,), digests (b, 16), and frames (b, s, s, 3) uint8 on the device."""
        rows = to_device(torch.from_numpy(samples), self.device)
        return self.found[samples], self.digests[samples], self.pixels[rows]


def row_bytes(size: int) -> int:
    """Bytes of one frame in memory, with its digest and the sample whose frame it is."""
    return 3 * size**2 + 16 + 8


def choose(
    asked: str, *, needed: int, samples: int, images: int, noisy_jpeg: bool, host: int, gpu: int
) -> tuple[str, str]:
    """The tier for frames of `needed` bytes, and the reason; host, gpu: free bytes (gpu 0: none).

    "auto" takes the GPU, else the host, where SHARE of the free memory holds the frames; it streams
    where neither does, or where the run draws fewer `images` than there are `samples`. Raises
    ConfigError where the tier asked for is impossible.
    """
    fits_host, fits_gpu = needed <= SHARE * host, needed <= SHARE * gpu and not noisy_jpeg
    if asked == "auto":
        if images < samples:
            return STREAMING, f"{images:,} of {samples:,} images are drawn"
        tier = GPU if fits_gpu and fits_host else HOST if fits_host else STREAMING
        also = f" and {gpu / 1e9:.1f} GB on the GPU" if gpu else ""
        return tier, f"{needed / 1e9:.2f} GB, free: {host / 1e9:.1f} GB{also}"
    if asked == GPU and noisy_jpeg:
        raise ConfigError(
            "runtime.tier=gpu: JPEG noise (data.jpeg_noise) is made on the host; "
            "use runtime.tier=host or auto"
        )
    if asked == GPU and not gpu:
        raise ConfigError("runtime.tier=gpu: found no CUDA device; use runtime.tier=host or auto")
    if (asked == HOST and not fits_host) or (asked == GPU and not (fits_gpu and fits_host)):
        raise ConfigError(
            f"runtime.tier={asked}: the frames need {needed / 1e9:.1f} GB, found "
            f"{host / 1e9:.1f} GB of host and {gpu / 1e9:.1f} GB of GPU memory free, of which "
            f"{SHARE:.0%} may be used; use runtime.tier=auto or streaming, or a smaller data.frame"
        )
    return asked, "as asked"


def open_frames(
    shards: ShardSet,
    data: Data,
    runtime: Runtime,
    place: Place,
    *,
    images: int,
    note: Callable[[], None] = lambda: None,
) -> StreamedFrames | HostFrames | DeviceFrames | NvjpegFrames:
    """The frames of a run that draws `images` of them. All ranks call it; rank 0 prints the tier.

    note: called for each chunk that was decoded. Raises ConfigError where the tier asked for is
    impossible, ShardError where several samples in a row do not decode.
    """
    if data.decoder == "nvjpeg":
        _report(place, "streamed from the shards, decoded by the GPU")
        return NvjpegFrames(shards, data.frame, place.device)
    workers = data_threads(runtime.workers)
    streamed = streamed_frames(shards, data.frame, images, workers)
    needed = len(shards) * row_bytes(data.frame)
    node = _meet(place, needed)
    try:
        tier, why = _agreed_tier(shards, data, runtime, place, images, needed, node)
        if tier == STREAMING:
            _report(place, f"streamed from the shards ({why})")
            return streamed
        started = time.perf_counter()
        host = HostFrames(node.map(needed), len(shards), data.frame)
        _fill(host, streamed, node, workers, note, show=place.is_first)
        frames = DeviceFrames(host, place.device) if tier == GPU else host
    finally:
        node.close()
    where = "on the GPU" if tier == GPU else "in host memory"
    seconds = time.perf_counter() - started
    _report(place, f"resident {where} ({why}), decoded in {seconds:.1f} s")
    return frames


def _agreed_tier(
    shards: ShardSet,
    data: Data,
    runtime: Runtime,
    place: Place,
    images: int,
    needed: int,
    node: "_Node",
) -> tuple[str, str]:
    """The cheapest tier that any rank chooses, and this rank's reason. Raises ConfigError."""
    mine, why = choose(
        runtime.tier,
        needed=needed,
        samples=len(shards),
        images=images,
        noisy_jpeg=data.jpeg_noise,
        host=host_memory.available() // node.copies,
        gpu=torch.cuda.mem_get_info(place.device)[0] if place.device.type == "cuda" else 0,
    )
    tiers: list = [None] * place.world_size
    distributed.all_gather_object(tiers, mine)
    return min(tiers, key=TIERS.index), why


def _report(place: Place, text: str) -> None:
    if place.is_first:
        print(f"frames: {text}", file=sys.stderr, flush=True)


@dataclass
class _Node:
    """The ranks that share memory with this one, which is number `index` of `count`.

    `copies` such groups are on this host; the frames lie in the memory file of the first rank of
    each, open here as `leader_file`.
    """

    index: int
    count: int
    copies: int
    file: int
    leader_file: int

    def map(self, size: int) -> np.ndarray:
        """The shared memory, (size,) uint8."""
        return np.frombuffer(mmap.mmap(self.leader_file, size), np.uint8)

    def close(self) -> None:
        """Close the files; mapped memory stays."""
        for file in {self.file, self.leader_file}:
            os.close(file)


def _meet(place: Place, size: int) -> _Node:
    """Find the ranks of this host; the first of them shares a memory file of `size` bytes."""
    file = os.memfd_create("scemae-frames")
    os.ftruncate(file, size)
    host = Path("/proc/sys/kernel/random/boot_id").read_text()
    namespace = os.readlink("/proc/self/ns/pid")
    ranks: list = [None] * place.world_size
    distributed.all_gather_object(ranks, (host, namespace, os.getpid(), file))
    near = [rank for rank, (h, n, *_) in enumerate(ranks) if (h, n) == (host, namespace)]
    leader_file = file if near[0] == place.rank else _open_file_of(*ranks[near[0]][2:])
    # All ranks wait here, so that the first does not close its file before the others opened it.
    failed: list = [None] * place.world_size
    distributed.all_gather_object(failed, leader_file is None)
    if leader_file is None or any(failed):
        if leader_file not in (None, file):
            os.close(leader_file)
        return _Node(0, 1, sum(h == host for h, *_ in ranks), file, file)
    copies = len({n for h, n, *_ in ranks if h == host})
    return _Node(near.index(place.rank), len(near), copies, file, leader_file)


def _open_file_of(process: int, file: int) -> int | None:
    """Open a file of another process by its number there; None where that is not permitted."""
    try:
        return os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)
    except OSError:
        return None


def _fill(
    host: HostFrames,
    streamed: StreamedFrames,
    node: _Node,
    workers: int,
    note: Callable[[], None],
    show: bool,
) -> None:
    """Decode this rank's share of the node's frames, and wait for the others."""
    mine = np.array_split(np.arange(len(host.found)), node.count)[node.index]
    chunks = [mine[row : row + CHUNK] for row in range(0, len(mine), CHUNK)]
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="decode") as threads,
        progress_bar(show=show, total=len(mine), unit="image", desc="decoding") as bar,
    ):
        for chunk, _ in zip(chunks, threads.map(partial(host.decode, streamed), chunks)):
            note()
            bar.update(len(chunk))
    barrier()
