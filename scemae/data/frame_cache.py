"""The two tiers of data: frames of all samples in memory, decoded once, where they fit; else streamed from the shards.

A resident batch is one gather by index, at any place of the order, so a resumed run reads nothing twice. One copy per
node lies in memory that its ranks share (anonymous: it is gone with the last of them, however they end); a GPU that has
the room gets its own. Which tier serves a run changes no pixel: all decode with decode.py.
"""

import mmap
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from scemae.config.schema.training import Data, Runtime
from scemae.data.augment import to_device
from scemae.data.decode import Streaming, digests
from scemae.data.nvjpeg import NvJpeg
from scemae.data.storage.shard_set import ShardSet
from scemae.distributed import host_memory
from scemae.distributed.process_group import Place, barrier, data_threads
from scemae.errors import ConfigError
from scemae.process.progress import progress_bar

STREAMING, HOST, GPU = TIERS = ("streaming", "host", "gpu")  # the modest first
SHARE = 0.5  # of the free memory that frames may take; the rest is the model's
CHUNK = 64  # frames decoded by a thread at a time


class Resident:
    """Frames in host memory: pixels (n, s, s, 3) uint8, their digests (n, 16), and whose they are, found (n,)."""

    is_on_device = False

    def __init__(self, block: np.ndarray, count: int, size: int) -> None:
        """`block` of row_bytes(size) * count uint8."""
        self.size = size
        self.found = block[: 8 * count].view(np.int64)
        self.digests = block[8 * count : 24 * count].reshape(count, 16)
        self.pixels = block[24 * count : row_bytes(size) * count].reshape(count, size, size, 3)

    def frames(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of decode.Streaming."""
        return self.found[samples], self.pixels[samples]

    def decode(self, source: Streaming, samples: np.ndarray) -> None:
        """Fill in the rows of some samples. Raises ShardError."""
        self.found[samples], frames = source.frames(samples)
        self.pixels[samples], self.digests[samples] = frames, digests(frames)


class OnDevice:
    """Frames on a GPU; digests are those taken when they were decoded."""

    is_on_device, is_slow = True, False

    def __init__(self, resident: Resident, device: torch.device) -> None:
        self.size, self.device = resident.size, device
        self.digests, self.found = resident.digests.copy(), resident.found.copy()
        self.pixels = torch.empty(resident.pixels.shape, dtype=torch.uint8, device=device)
        for row in range(0, len(self.found), 4096):
            self.pixels[row : row + 4096] = torch.from_numpy(resident.pixels[row : row + 4096]).to(
                device
            )

    def gather(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Samples found (b,), digests (b, 16), and frames (b, s, s, 3) uint8 on the device."""
        return (
            self.found[samples],
            self.digests[samples],
            self.pixels[to_device(torch.from_numpy(samples), self.device)],
        )


def row_bytes(size: int) -> int:
    """Bytes of one resident frame with its digest and owner."""
    return 3 * size**2 + 16 + 8


def choose(
    asked: str, *, needed: int, samples: int, images: int, noisy_jpeg: bool, host: int, gpu: int
) -> tuple[str, str]:
    """The tier for frames of `needed` bytes, and why; host, gpu: bytes that are free, gpu 0 without one.

    "auto" takes the GPU, else the host, where SHARE of what is free holds them, else streaming; and streaming where the
    run draws fewer images than there are samples. Raises ConfigError where the tier asked for cannot be.
    """
    fits_host, fits_gpu = needed <= SHARE * host, needed <= SHARE * gpu and not noisy_jpeg
    if asked == "auto":
        if images < samples:
            return STREAMING, f"{images:,} of {samples:,} images are drawn"
        tier = GPU if fits_gpu and fits_host else HOST if fits_host else STREAMING
        also = f" and {gpu / 1e9:.1f} GB on the GPU" if gpu else ""
        return tier, f"{needed / 1e9:.2f} GB, free: {host / 1e9:.1f} GB{also}"
    if asked == GPU and (noisy_jpeg or not gpu):
        raise ConfigError(
            "runtime.tier=gpu: "
            + (
                "JPEG noise (data.jpeg_noise) is made on the host"
                if noisy_jpeg
                else "found no CUDA device"
            )
            + "; use runtime.tier=host or auto"
        )
    if (asked == HOST and not fits_host) or (asked == GPU and not (fits_gpu and fits_host)):
        raise ConfigError(
            f"runtime.tier={asked}: the frames need {needed / 1e9:.1f} GB, found {host / 1e9:.1f} GB of host "
            f"and {gpu / 1e9:.1f} GB of GPU memory free, of which {SHARE:.0%} may be used; use runtime.tier=auto "
            "or streaming, or a smaller data.frame"
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
) -> Streaming | Resident | OnDevice | NvJpeg:
    """The source of frames for a run that draws `images` of them. All ranks call it; rank 0 says which it is.

    Raises ConfigError where the tier asked for cannot be, ShardError at a stretch of samples that are no JPEG.
    """
    if data.decoder == "nvjpeg":
        if place.is_first:
            print(
                "frames: streamed from the shards, decoded by the GPU", file=sys.stderr, flush=True
            )
        return NvJpeg(shards, data.frame, place.device)
    needed, source = len(shards) * row_bytes(data.frame), Streaming(shards, data.frame)
    node = _meet(place, needed)
    gpu = torch.cuda.mem_get_info(place.device)[0] if place.device.type == "cuda" else 0
    mine, why = choose(
        runtime.tier,
        needed=needed,
        samples=len(shards),
        images=images,
        noisy_jpeg=data.jpeg_noise,
        host=host_memory.available() // node.copies,
        gpu=gpu,
    )
    tiers: list = [None] * place.world_size
    distributed.all_gather_object(tiers, mine)
    tier, started = min(tiers, key=TIERS.index), time.perf_counter()
    if tier != STREAMING:
        resident = Resident(node.map(needed), len(shards), data.frame)
        _fill(resident, source, node, data_threads(runtime.workers), note, show=place.is_first)
        source = OnDevice(resident, place.device) if tier == GPU else resident
    node.close()
    if place.is_first:
        where = {
            STREAMING: "streamed from the shards",
            HOST: "resident in host memory",
            GPU: "resident on the GPU",
        }[tier]
        took = "" if tier == STREAMING else f", decoded in {time.perf_counter() - started:.1f} s"
        print(f"frames: {where} ({why}){took}", file=sys.stderr, flush=True)
    return source


@dataclass
class _Node:
    """The ranks that share memory with this one: it is number `index` of `count`; `copies` such groups on this host."""

    index: int
    count: int
    copies: int
    file: int
    leader_file: int

    def map(self, size: int) -> np.ndarray:
        return np.frombuffer(mmap.mmap(self.leader_file, size), np.uint8)

    def close(self) -> None:
        for file in {self.file, self.leader_file}:
            os.close(file)


def _meet(place: Place, size: int) -> _Node:
    """Find the ranks of this host; the first of them lends all a memory file that has no name."""
    file = os.memfd_create("scemae-frames")
    os.ftruncate(file, size)
    host, room = (
        Path("/proc/sys/kernel/random/boot_id").read_text(),
        os.readlink("/proc/self/ns/pid"),
    )
    told: list = [None] * place.world_size
    distributed.all_gather_object(told, (host, room, os.getpid(), file))
    near = [rank for rank, (h, r, *_) in enumerate(told) if (h, r) == (host, room)]
    _, _, leader, theirs = told[near[0]]
    try:
        leader_file = (
            file if near[0] == place.rank else os.open(f"/proc/{leader}/fd/{theirs}", os.O_RDWR)
        )
    except OSError:  # a neighbour behind a wall: its memory is not for this rank
        leader_file = None
    walls: list = [None] * place.world_size
    distributed.all_gather_object(
        walls, leader_file is None
    )  # and before the first may close its own
    if any(walls):
        for opened in {leader_file} - {file, None}:
            os.close(opened)
        return _Node(0, 1, sum(h == host for h, *_ in told), file, file)
    return _Node(
        near.index(place.rank),
        len(near),
        len({r for h, r, *_ in told if h == host}),
        file,
        leader_file,
    )


def _fill(
    resident: Resident,
    stream: Streaming,
    node: _Node,
    workers: int,
    note: Callable[[], None],
    show: bool,
) -> None:
    """Decode this rank's share of the node's frames, and wait for the others."""
    mine = np.array_split(np.arange(len(resident.found)), node.count)[node.index]
    chunks = [mine[row : row + CHUNK] for row in range(0, len(mine), CHUNK)]
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="decode") as threads,
        progress_bar(show=show, total=len(mine), unit="image", desc="decoding") as bar,
    ):
        for chunk, _ in zip(
            chunks, threads.map(lambda chunk: resident.decode(stream, chunk), chunks)
        ):
            note()
            bar.update(len(chunk))
    barrier()
