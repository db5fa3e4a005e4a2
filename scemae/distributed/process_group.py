"""Ranks, device and process group, read from the environment that torchrun, deepspeed and srun wrappers set."""

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from scemae.distributed import tf32
from scemae.distributed.launchers import Launch, number
from scemae.errors import LaunchError, LostRankError

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK = "lo"


@dataclass
class Place:
    """Where this process stands: rank of world_size, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def choose_device(asked: str, local_rank: int = 0) -> torch.device:
    """auto, cpu or cuda to a device, on which fp32 is fp32 (tf32.py). Raises LaunchError where cuda is asked for and absent."""
    tf32.allow(False)
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise LaunchError(
            "runtime.device=cuda: found no CUDA device that torch can use; run on a GPU node, or set "
            "runtime.device=cpu"
        )
    if asked == "cpu" or not available:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise LaunchError(
            f"LOCAL_RANK={local_rank}: found {torch.cuda.device_count()} CUDA devices on "
            f"{socket.gethostname()}; start at most that many ranks per node"
        )
    return torch.device("cuda", local_rank)


def precision(asked: str, device: torch.device) -> torch.dtype:
    """auto, fp32, tf32 or bf16 to a dtype: auto is bf16 on CUDA and fp32 on the CPU (slower in bf16 without AMX)."""
    if asked == "auto":
        asked = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if asked == "bf16" else torch.float32


@contextmanager
def process_group(device: str, patience: float = 600.0) -> Iterator[Place]:
    """Join the process group named by the environment, or make one of a single rank; leave it at the end.

    Waits `patience` seconds for the others. Raises LostRankError where they do not come, LaunchError where RANK, WORLD_SIZE,
    LOCAL_RANK, MASTER_ADDR and MASTER_PORT are not all set, or not as they can be.
    """
    launch = Launch.read()
    chosen = choose_device(device, launch.local_rank if launch else 0)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
    import deepspeed

    # DeepSpeed would look for a compiler and a GPU for each of its own operators, 1 to 2 s on CUDA, and on a CPU build one
    # for 40 s, and fail without a compiler. We use none of them: this says that none can be built, and nothing is probed.
    deepspeed.ops.__compatible_ops__ = {}
    told, lost = _told(launch), False
    os.environ.update(told)
    try:
        _join(
            launch, chosen, timedelta(seconds=1.5 * patience)
        )  # our watchdog must end a hang before a collective times out
        yield Place(distributed.get_rank(), distributed.get_world_size(), chosen)
    except LostRankError:
        lost = True  # leaving the group would wait for a rank that is gone
        raise
    finally:
        if not lost and distributed.is_initialized():
            deepspeed.comm.destroy_process_group()  # torch's would leave DeepSpeed with groups that are gone
        for name in told:
            os.environ.pop(name, None)


def _join(launch: Launch | None, device: torch.device, patience: timedelta) -> None:
    """Meet the other ranks, in torch's process group and DeepSpeed's. Raises LostRankError."""
    import deepspeed

    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(
            backend, timeout=patience, **_meeting(launch, device, patience)
        )
        deepspeed.init_distributed(
            backend, verbose=False, timeout=patience
        )  # takes the group that is there
    except (distributed.DistError, RuntimeError) as error:
        if not is_lost_rank(error):
            raise
        raise LostRankError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: the others did not meet it at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({str(error).splitlines()[0][:200]}); "
            "the job ends and can start again"
        ) from error


def _told(launch: Launch | None) -> dict[str, str]:
    """What to add to the environment: the place of a single process; for ranks that are all on this host, that gloo and NCCL
    listen on loopback alone, unless the user has named interfaces."""
    names = (
        {}
        if launch
        else {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": _free_port(),
        }
    )  # DeepSpeed asks for them; nothing listens there
    if (launch is None or launch.is_one_host) and LOOPBACK in (
        name for _, name in socket.if_nameindex()
    ):
        names |= {name: LOOPBACK for name in INTERFACES if name not in os.environ}
    return names


def _meeting(launch: Launch | None, device: torch.device, patience: timedelta) -> dict[str, Any]:
    """How torch's process group finds the other ranks: its store and what it needs to know beside it.

    A single process has a store in its own memory, so that nothing listens. Rank 0 of several on one host opens it at
    MASTER_ADDR alone; of several hosts on all addresses, as torch does, because its own name may mean another address to the
    others. Under torchrun the store is torchrun's.
    """
    if launch is None:
        return {"store": distributed.HashStore(), "rank": 0, "world_size": 1}
    eager = (
        {"device_id": device} if device.type == "cuda" and launch.world_size > 1 else {}
    )  # as DeepSpeed does
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return eager
    listening = _listen(launch) if launch.rank == 0 and launch.is_one_host else None
    store = distributed.TCPStore(
        launch.address,
        launch.port,
        launch.world_size,
        launch.rank == 0,
        patience,
        master_listen_fd=listening,
    )
    return {"store": store, "rank": launch.rank, "world_size": launch.world_size, **eager}


def _listen(launch: Launch) -> int | None:
    """The descriptor of a socket at MASTER_ADDR that the store may use; None where that is not an address of this host."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            launch.address, launch.port, type=socket.SOCK_STREAM
        )[0]
        return socket.create_server(address[:2], family=family).detach()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LostRankError(
                f"rank 0 of {launch.world_size}: {launch.address}:{launch.port} is in use by another process; "
                "give another MASTER_PORT, or wait until that one has ended"
            ) from error
        return None


def barrier() -> None:
    """Wait for all ranks."""
    distributed.barrier()


def is_lost_rank(error: Exception) -> bool:
    """True where a collective failed because another rank is gone (gloo says so in a plain RuntimeError)."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def agree(word: Any) -> Any:
    """Rank 0's word, on every rank: what all must act on together."""
    box = [word]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def data_threads(asked: str | int) -> int:
    """How many threads of this rank decode: those asked for, or for "auto" its share of the cores, 16 at most.

    Launchers that bind a rank to its cores leave it those; others tell LOCAL_WORLD_SIZE.
    """
    if asked != "auto":
        return int(asked)
    return max(
        min(
            len(os.sched_getaffinity(0))
            // number(os.environ, "LOCAL_WORLD_SIZE", 1, None, default=1),
            16,
        ),
        1,
    )


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: returning it at every step costs a CPU run a quarter of its speed."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for large tensors
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 256 << 20)  # M_TOP_PAD


def flush_denormals() -> None:
    """Let this CPU take numbers below 1e-38 for zero. A regressor's gradients are full of them, after a softmax of 100 times
    its responses, and each takes a slow path: 20 times the time of a step was seen. Call it before torch's threads start:
    they inherit it."""
    torch.set_flush_denormal(True)


def _free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])
