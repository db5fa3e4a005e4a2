"""How much memory this process may use: the machine's, within the limits of its control groups."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def limit() -> int:
    """Bytes of host memory that processes like this one may use together."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(most for most, _ in _groups())])


def available() -> int:
    """Bytes of host memory that are free now."""
    lines = _read(Path("/proc/meminfo")).splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    free = fields.get("MemAvailable", limit())
    return max(min([free, *(most - used for most, used in _groups())]), 0)


def free(device: Any) -> int:
    """Bytes that can be had now on a torch.device: a GPU's with those that torch keeps for what comes next, else the host's."""
    if device.type != "cuda":
        return available()
    import torch

    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def most_resident() -> int:
    """The most host memory this process has used so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _groups() -> Iterator[tuple[int, int]]:
    """Limit and use of each control group above this process that has a limit; a scheduler may set it on any."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, kind, path = line.split(":", 2)
        if number != "0" and kind != "memory":
            continue
        root, names = (
            (Path("/sys/fs/cgroup"), ("memory.max", "memory.current"))
            if number == "0"
            else (Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        )
        mine = root / path.lstrip("/")
        for folder in (mine, *mine.parents):
            most, used = (_read(folder / name).strip() for name in names)
            if most.isdigit() and used.isdigit():
                yield int(most), int(used)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except OSError:
        return ""
