"""How much memory this process may use: the machine's, within the limits of its control groups."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch


def limit() -> int:
    """Bytes of host memory that this process and its neighbours may use together."""
    return min([psutil.virtual_memory().total, *(most for most, _ in _group_limits())])


def available() -> int:
    """Bytes of host memory that are free now."""
    free_in_groups = [most - used for most, used in _group_limits()]
    return max(min([psutil.virtual_memory().available, *free_in_groups]), 0)


def free(device: torch.device) -> int:
    """Bytes that can be allocated now on a device: the host's for a CPU.

    Of a GPU, the blocks that torch's allocator has freed and kept count as free.
    """
    if device.type != "cuda":
        return available()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def most_resident() -> int:
    """The most host memory this process has used so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _group_limits() -> Iterator[tuple[int, int]]:
    """Memory limit and memory in use, in bytes, of each control group that limits this process.

    psutil does not know control groups. A scheduler may set the limit on any of them.
    """
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, kind, path = line.split(":", 2)
        if number == "0":  # version 2
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif kind == "memory":
            root = Path("/sys/fs/cgroup/memory")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            most, used = (_read(folder / name).strip() for name in names)
            if most.isdigit() and used.isdigit():
                yield int(most), int(used)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except OSError:
        return ""
