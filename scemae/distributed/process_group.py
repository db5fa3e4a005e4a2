"""Rank, device and process group, from the environment that torchrun, deepspeed or srun set."""

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

from scemae.distributed import deepspeed_internals, tf32
from scemae.distributed.launchers import Launch, number
from scemae.errors import LaunchError, LostRankError
from scemae.process.cores import cores

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK = "lo"


@dataclass
class Place:
    """This process among all ranks: its rank, their number, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True on rank 0."""
        return self.rank == 0


def choose_device(asked: str, local_rank: int = 0) -> torch.device:
    """The device for auto, cpu or cuda, with TF32 turned off (tf32.py).

    Raises LaunchError where there is no CUDA device, or too few of them, for cuda.
    """
    tf32.allow(False)
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise LaunchError(
            "runtime.device=cuda: found no CUDA device that torch can use; run on a GPU node, or "
            "set runtime.device=cpu"
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
    """The dtype for auto, fp32, tf32 or bf16.

    auto is bf16 on CUDA, and fp32 on a CPU, where bf16 is slower without AMX.
    """
    if asked == "auto":
        asked = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if asked == "bf16" else torch.float32


@contextmanager
def process_group(device: str, patience: float = 600.0) -> Iterator[Place]:
    """Join the process group named by the environment, or make one of a single rank; leave it at
    the end of the block.

    Waits `patience` seconds for the other ranks, and raises LostRankError where they do not come.
    Raises LaunchError where RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are not all
    set, or have impossible values.
    """
    launch = Launch.read()
    chosen = choose_device(device, launch.local_rank if launch else 0)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
    import deepspeed  # inside functions: the import takes seconds, and not every command trains

    deepspeed_internals.probe_no_operators()
    added, is_rank_lost = _environment(launch), False
    os.environ.update(added)
    try:
        # 1.5: our watchdog must end a hang before a collective times out
        _join(launch, chosen, timedelta(seconds=1.5 * patience))
        yield Place(distributed.get_rank(), distributed.get_world_size(), chosen)
    except LostRankError:
        is_rank_lost = True  # leaving the group would wait for a rank that is gone
        raise
    finally:
        if not is_rank_lost and distributed.is_initialized():
            # not torch's own: it would leave DeepSpeed with groups that no longer exist
            deepspeed.comm.destroy_process_group()
        for name in added:
            os.environ.pop(name, None)


def _join(launch: Launch | None, device: torch.device, patience: timedelta) -> None:
    """Join torch's process group and DeepSpeed's. Raises LostRankError."""
    import deepspeed

    backend = "nccl" if device.type == "cuda" else "gloo"
    arguments = _group_arguments(launch, device, patience)
    try:
        distributed.init_process_group(backend, timeout=patience, **arguments)
        # takes over the group that torch has just made
        deepspeed.init_distributed(backend, verbose=False, timeout=patience)
    except (distributed.DistError, RuntimeError) as error:
        if not is_lost_rank(error):
            raise
        raise LostRankError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: the others did not meet it "
            f"at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
            f"({str(error).splitlines()[0][:200]}); the job ends and can start again"
        ) from error


def _environment(launch: Launch | None) -> dict[str, str]:
    """The variables to add to the environment.

    A single process gets the variables of a rank. Where all ranks are on this host, gloo and NCCL
    listen on loopback alone, unless the user has named interfaces.
    """
    added = {}
    if launch is None:  # DeepSpeed asks for all five; nothing listens at this port
        added = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        added |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    is_one_host = launch is None or launch.is_one_host
    if is_one_host and LOOPBACK in (name for _, name in socket.if_nameindex()):
        added |= {name: LOOPBACK for name in INTERFACES if name not in os.environ}
    return added


def _group_arguments(
    launch: Launch | None, device: torch.device, patience: timedelta
) -> dict[str, Any]:
    """The arguments by which torch's process group finds the other ranks: a store and their number.

    A single process has a store in its own memory, so nothing listens. Of several ranks on one
    host, rank 0 opens the store at MASTER_ADDR alone. Of several hosts it opens it on all
    addresses, as torch does, because its own name may mean another address to the others. Under
    torchrun the store is torchrun's.
    """
    if launch is None:
        memory = distributed.HashStore()  # type: ignore[attr-defined]  # torch does not export it
        return {"store": memory, "rank": 0, "world_size": 1}
    # NCCL connects at once, as DeepSpeed would have it.
    eager = {"device_id": device} if device.type == "cuda" and launch.world_size > 1 else {}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return eager
    listening = _listen(launch) if launch.rank == 0 and launch.is_one_host else None
    store = distributed.TCPStore(  # type: ignore[attr-defined]  # as above
        launch.address,
        launch.port,
        launch.world_size,
        launch.rank == 0,
        patience,
        master_listen_fd=listening,
    )
    return {"store": store, "rank": launch.rank, "world_size": launch.world_size, **eager}


def _listen(launch: Launch) -> int | None:
    """The descriptor of a socket that listens at MASTER_ADDR, for the store.

    None where that is not an address of this host. Raises LostRankError where the port is taken.
    """
    try:
        found = socket.getaddrinfo(launch.address, launch.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family).detach()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LostRankError(
                f"rank 0 of {launch.world_size}: {launch.address}:{launch.port} is in use by "
                "another process; give another MASTER_PORT, or wait until that one has ended"
            ) from error
        return None


def barrier() -> None:
    """Wait for all ranks."""
    distributed.barrier()


def is_lost_rank(error: Exception) -> bool:
    """True where a collective failed because another rank is gone.

    gloo reports that as a plain RuntimeError.
    """
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def agree(value: Any) -> Any:
    """Rank 0's value, on every rank. All ranks call it."""
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def ranks_of_node(place: Place) -> int:
    """How many ranks are on a node, as the launcher says; all of them where it does not."""
    if local := number(os.environ, "LOCAL_WORLD_SIZE", 1, None, default=0):
        return local
    return -(-place.world_size // number(os.environ, "GROUP_WORLD_SIZE", 1, None, default=1))


def data_threads(asked: str | int) -> int:
    """How many threads of this rank decode images: those asked for; "auto" is at most 16.

    "auto" divides the cores that this process may use by LOCAL_WORLD_SIZE. A launcher that binds
    each rank to its own cores does not set it.
    """
    if asked != "auto":
        return int(asked)
    ranks_here = number(os.environ, "LOCAL_WORLD_SIZE", 1, None, default=1)
    return max(min(cores() // ranks_here, 16), 1)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory: returning it at each step costs a CPU run 25 % of its speed."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for large tensors
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 256 << 20)  # M_TOP_PAD


def flush_denormals() -> None:
    """Make this CPU round numbers below 1e-38 to zero.

    The gradients of a landmark regressor have many, after a softmax of 100 times its responses, and
    the CPU computes with them so slowly that a step took 20 times as long. Call it before torch
    starts its threads: they inherit it.
    """
    torch.set_flush_denormal(True)


def _free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])
