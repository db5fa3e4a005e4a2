"""Who takes part in a run, rank by rank, and what between them would make it slow, or no run at all.

`take_seat` describes this process, `gather` brings all of them together, `compare` judges: a pure function of the seats.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from scemae.config.dotted import flatten
from scemae.config.locations import masked
from scemae.distributed.process_group import INTERFACES, Place, barrier
from scemae.runs import run_folder
from scemae.training.doctor.findings import OK, REFUSED, WARNING, Finding

CLOCK_SECONDS, SHM_GIB, HALF_A_CORE = 2.0, 1.0, 0.5


@dataclass
class Seat:
    """One rank as it sees itself and its host."""

    rank: int
    host: str
    address: str  # of this host, towards MASTER_ADDR
    device: str
    cores: set[int]  # that this process may run on
    gpus: int
    threads: int  # of torch in this process
    shm_gib: float
    forced: dict[str, str]  # of INTERFACES, those that are set
    interfaces: list[str]  # that the host has
    versions: dict[str, str]
    commit: str
    settings: dict[str, str]  # every one, by its dotted name
    data: str  # digest of the shards
    clock: float = 0.0  # unix time just after a barrier
    taken: float = 0.0  # of its cores, by others' processes, while all ranks wait


def take_seat(place: Place, config: Any, data_digest: str) -> Seat:
    """Describe this process."""
    return Seat(
        place.rank,
        socket.gethostname(),
        address_towards(os.environ["MASTER_ADDR"]),
        place.device.type,
        os.sched_getaffinity(0),
        torch.cuda.device_count(),
        torch.get_num_threads(),
        _shm_gib(),
        {name: os.environ[name] for name in INTERFACES if name in os.environ},
        [name for _, name in socket.if_nameindex()],
        run_folder.versions(),
        run_folder.commit(),
        {name: masked(str(value)) for name, value in flatten(config).items()},
        data_digest,
    )


def gather(place: Place, seat: Seat) -> list[Seat]:
    """The seats of all ranks, each with its clock at the same moment. All ranks call it."""
    barrier()
    seat.clock = time.time()
    seat.taken = cores_taken(seat.cores)
    seats: list = [None] * place.world_size
    distributed.all_gather_object(seats, seat)
    return seats


def cores_taken(cores: set[int], seconds: float = 1.0) -> float:
    """How many of these cores other processes use, measured for so long; 0 where /proc does not say."""
    mine, before = time.process_time(), _ticks(cores)
    time.sleep(seconds)
    used = (_ticks(cores) - before) / os.sysconf("SC_CLK_TCK") - (time.process_time() - mine)
    return max(used / seconds, 0.0)


def _ticks(cores: set[int], stat: str = "/proc/stat") -> int:
    """Clock ticks in which any process ran on some cores, or the host of this virtual machine took them, since boot."""
    names, total = {f"cpu{core}" for core in cores}, 0
    try:
        with open(stat, encoding="ascii") as lines:
            for words in map(str.split, lines):
                if words and words[0] in names:
                    user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(
                        int, words[1:9]
                    )
                    total += user + nice + system + sum(interrupts_and_stolen)
    except (OSError, ValueError):
        return 0
    return total


def address_towards(host: str) -> str:
    """The address of this machine that packets to `host` leave from; "unknown" where there is no way there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            return probe.getsockname()[0]
    except OSError:
        return "unknown"


def hosts_of(seats: list[Seat]) -> dict[str, list[Seat]]:
    """The seats by host."""
    hosts: dict[str, list[Seat]] = {}
    for seat in seats:
        hosts.setdefault(seat.host, []).append(seat)
    return hosts


def compare(seats: list[Seat]) -> list[Finding]:
    """What is the same and must be, what differs, and what is too little on a host."""
    hosts = hosts_of(seats)
    found = [_ranks(hosts), *_sameness(seats), _clocks(seats), _network(seats)]
    for host, here in hosts.items():
        found += _threads(host, here)
    return found


def _ranks(hosts: dict[str, list[Seat]]) -> Finding:
    words = []
    for host, here in hosts.items():
        cores = set().union(*(seat.cores for seat in here))
        words.append(
            f"{host} with {len(here)} ({len(cores)} cores"
            + (f", {here[0].gpus} GPUs)" if here[0].gpus else ")")
        )
    count = sum(map(len, hosts.values()))
    return Finding(
        OK,
        "ranks",
        f"{count} x {next(iter(hosts.values()))[0].device} on {_number(len(hosts), 'host')}: "
        + "; ".join(words),
    )


def _sameness(seats: list[Seat]) -> list[Finding]:
    advice = {
        "commit": "check out the same one everywhere",
        "data": "copy the same shards to every host",
        "device": "ask for the same kind of node, or runtime.device=cpu",
    }
    found = []
    for name, mend in advice.items():
        if differ := _differ(seats, lambda seat: getattr(seat, name)[:16]):
            found.append(Finding(REFUSED, "sameness", f"{name}: {differ}; {mend}"))
    for name in seats[0].versions:
        if differ := _differ(seats, lambda seat: seat.versions[name]):
            found.append(
                Finding(REFUSED, "sameness", f"{name}: {differ}; install one version everywhere")
            )
    for name in seats[0].settings:
        if differ := _differ(seats, lambda seat: seat.settings.get(name, "absent")):
            found.append(
                Finding(
                    REFUSED, "sameness", f"{name}: {differ}; give every rank the same key=value"
                )
            )
    torch_, deepspeed = (seats[0].versions[name] for name in ("torch", "deepspeed"))
    commit = seats[0].commit.partition(" ")
    fine = Finding(
        OK,
        "sameness",
        f"commit {commit[0][:10]}{commit[1]}{commit[2]}, torch {torch_}, deepspeed {deepspeed}, "
        f"the same settings and data on {_number(len(seats), 'rank')}",
    )
    return found or [fine]


def _differ(seats: list[Seat], value: Callable[[Seat], str]) -> str | None:
    groups: dict[str, list[Seat]] = {}
    for seat in seats:
        groups.setdefault(value(seat), []).append(seat)
    if len(groups) == 1:
        return None
    return ", ".join(
        f"{what} on rank {group[0].rank} ({group[0].host})"
        + (f" and {len(group) - 1} more" if group[1:] else "")
        for what, group in groups.items()
    )


def _clocks(seats: list[Seat]) -> Finding:
    slow, fast = min(seats, key=lambda seat: seat.clock), max(seats, key=lambda seat: seat.clock)
    apart = fast.clock - slow.clock
    if apart > CLOCK_SECONDS:
        return Finding(
            WARNING,
            "clocks",
            f"found {fast.host} {apart:.1f} s ahead of {slow.host}, at most "
            f"{CLOCK_SECONDS:.0f} s were needed: times in reports will be wrong; start a time service there",
        )
    return Finding(OK, "clocks", f"agree within {apart:.3f} s")


def _network(seats: list[Seat]) -> Finding:
    for seat in seats:
        for variable, names in seat.forced.items():
            wanted = names.lstrip("=").split(",")
            if names.startswith("^") or any(
                have.startswith(name) for name in wanted for have in seat.interfaces
            ):
                continue
            return Finding(
                REFUSED,
                "network",
                f"{variable}={names}: {seat.host} has only {', '.join(seat.interfaces)}; "
                "name one of them, or unset it",
            )
    addresses = ", ".join(f"{host} {here[0].address}" for host, here in hosts_of(seats).items())
    forced = ", ".join(f"{variable}={names}" for variable, names in seats[0].forced.items())
    text = f"{addresses}; interfaces " + (
        f"forced by {forced}" if forced else "chosen by gloo and NCCL themselves"
    )
    if len(hosts_of(seats)) > 1 and any(seat.address.startswith("127.") for seat in seats[1:]):
        return Finding(
            WARNING,
            "network",
            f"{text}; a loopback address between hosts; set MASTER_ADDR to a name that "
            "other hosts can reach",
        )
    return Finding(OK, "network", text)


def _threads(host: str, here: list[Seat]) -> list[Finding]:
    cores = len(set().union(*(seat.cores for seat in here)))
    threads = sum(seat.threads for seat in here)
    found = []
    if threads > cores:
        each = max(cores // len(here), 1)
        found.append(
            Finding(
                WARNING,
                "threads",
                f"{host}: found {_number(threads, 'thread')} in "
                f"{_number(len(here), 'rank')} on {_number(cores, 'core')}, where they wait for each "
                f"other; set OMP_NUM_THREADS={each}"
                + (", or start fewer ranks" if len(here) > cores else ""),
            )
        )
    taken = max(seat.taken for seat in here)
    if taken > max(cores - threads, 0) + HALF_A_CORE:
        found.append(
            Finding(
                WARNING,
                "busy",
                f"{host}: other processes use {taken:.1f} of {_number(cores, 'core')}, the run "
                f"wants {threads}: speed and times below are those of a busy machine; wait until they have ended, "
                f"choose another host, or set OMP_NUM_THREADS={max(int(cores - taken) // len(here), 1)}",
            )
        )
    if here[0].device == "cuda" and len(here) > 1 and here[0].shm_gib < SHM_GIB:
        found.append(
            Finding(
                WARNING,
                "/dev/shm",
                f"{host}: found {here[0].shm_gib:.2f} GiB, NCCL and its ranks want "
                f"{SHM_GIB:.0f}; start the container with a larger one (--shm-size)",
            )
        )
    return found


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _shm_gib() -> float:
    try:
        return shutil.disk_usage("/dev/shm").total / 2**30
    except OSError:
        return 0.0
