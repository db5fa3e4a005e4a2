"""The ranks of a run: what each one and its host are like, and what differs and should not.

`describe` is one rank about itself, `gather` exchanges that between ranks, and `compare` makes the
findings; it is a pure function.
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
class RankFacts:
    """One rank's description of itself and its host."""

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


def describe(place: Place, config: Any, data_digest: str) -> RankFacts:
    """Describe this process."""
    return RankFacts(
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


def gather(place: Place, rank: RankFacts) -> list[RankFacts]:
    """The facts of all ranks, with all clocks read at the same moment. All ranks call it."""
    barrier()
    rank.clock = time.time()
    rank.taken = cores_taken(rank.cores)
    ranks: list = [None] * place.world_size
    distributed.all_gather_object(ranks, rank)
    return ranks


def cores_taken(cores: set[int], seconds: float = 1.0) -> float:
    """How many of these cores other processes use, measured for `seconds`; 0 without /proc."""
    mine, before = time.process_time(), _ticks(cores)
    time.sleep(seconds)
    used = (_ticks(cores) - before) / os.sysconf("SC_CLK_TCK") - (time.process_time() - mine)
    return max(used / seconds, 0.0)


def _ticks(cores: set[int], stat: str = "/proc/stat") -> int:
    """Clock ticks since boot in which some cores ran a process, or this virtual machine's host took
    them."""
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
    """The address of this machine that packets to `host` leave from; "unknown" without a route."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            return probe.getsockname()[0]
    except OSError:
        return "unknown"


def hosts_of(ranks: list[RankFacts]) -> dict[str, list[RankFacts]]:
    """The ranks by host."""
    hosts: dict[str, list[RankFacts]] = {}
    for rank in ranks:
        hosts.setdefault(rank.host, []).append(rank)
    return hosts


def compare(ranks: list[RankFacts]) -> list[Finding]:
    """What must be the same on all ranks, and whether each host has enough for its ranks."""
    hosts = hosts_of(ranks)
    found = [_ranks(hosts), *_sameness(ranks), _clocks(ranks), _network(ranks)]
    for host, here in hosts.items():
        found += _threads(host, here)
    return found


def _ranks(hosts: dict[str, list[RankFacts]]) -> Finding:
    words = []
    for host, here in hosts.items():
        cores = set().union(*(rank.cores for rank in here))
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


def _sameness(ranks: list[RankFacts]) -> list[Finding]:
    advice = {
        "commit": "check out the same one everywhere",
        "data": "copy the same shards to every host",
        "device": "ask for the same kind of node, or runtime.device=cpu",
    }
    found = []
    for name, remedy in advice.items():
        if differ := _differ(ranks, lambda rank: getattr(rank, name)[:16]):
            found.append(Finding(REFUSED, "sameness", f"{name}: {differ}; {remedy}"))
    for name in ranks[0].versions:
        if differ := _differ(ranks, lambda rank: rank.versions[name]):
            found.append(
                Finding(REFUSED, "sameness", f"{name}: {differ}; install one version everywhere")
            )
    for name in ranks[0].settings:
        if differ := _differ(ranks, lambda rank: rank.settings.get(name, "absent")):
            found.append(
                Finding(
                    REFUSED, "sameness", f"{name}: {differ}; give every rank the same key=value"
                )
            )
    torch_, deepspeed = (ranks[0].versions[name] for name in ("torch", "deepspeed"))
    commit = ranks[0].commit.partition(" ")
    fine = Finding(
        OK,
        "sameness",
        f"commit {commit[0][:10]}{commit[1]}{commit[2]}, torch {torch_}, deepspeed {deepspeed}, "
        f"the same settings and data on {_number(len(ranks), 'rank')}",
    )
    return found or [fine]


def _differ(ranks: list[RankFacts], value: Callable[[RankFacts], str]) -> str | None:
    groups: dict[str, list[RankFacts]] = {}
    for rank in ranks:
        groups.setdefault(value(rank), []).append(rank)
    if len(groups) == 1:
        return None
    return ", ".join(
        f"{what} on rank {group[0].rank} ({group[0].host})"
        + (f" and {len(group) - 1} more" if group[1:] else "")
        for what, group in groups.items()
    )


def _clocks(ranks: list[RankFacts]) -> Finding:
    slow, fast = min(ranks, key=lambda rank: rank.clock), max(ranks, key=lambda rank: rank.clock)
    apart = fast.clock - slow.clock
    if apart > CLOCK_SECONDS:
        return Finding(
            WARNING,
            "clocks",
            f"found {fast.host} {apart:.1f} s ahead of {slow.host}, at most "
            f"{CLOCK_SECONDS:.0f} s were needed: times in reports will be wrong; start a time "
            "service there",
        )
    return Finding(OK, "clocks", f"agree within {apart:.3f} s")


def _network(ranks: list[RankFacts]) -> Finding:
    for rank in ranks:
        for variable, names in rank.forced.items():
            wanted = names.lstrip("=").split(",")
            if names.startswith("^") or any(
                have.startswith(name) for name in wanted for have in rank.interfaces
            ):
                continue
            return Finding(
                REFUSED,
                "network",
                f"{variable}={names}: {rank.host} has only {', '.join(rank.interfaces)}; "
                "name one of them, or unset it",
            )
    addresses = ", ".join(f"{host} {here[0].address}" for host, here in hosts_of(ranks).items())
    forced = ", ".join(f"{variable}={names}" for variable, names in ranks[0].forced.items())
    text = f"{addresses}; interfaces " + (
        f"forced by {forced}" if forced else "chosen by gloo and NCCL themselves"
    )
    if len(hosts_of(ranks)) > 1 and any(rank.address.startswith("127.") for rank in ranks[1:]):
        return Finding(
            WARNING,
            "network",
            f"{text}; a loopback address between hosts; set MASTER_ADDR to a name that "
            "other hosts can reach",
        )
    return Finding(OK, "network", text)


def _threads(host: str, here: list[RankFacts]) -> list[Finding]:
    cores = len(set().union(*(rank.cores for rank in here)))
    threads = sum(rank.threads for rank in here)
    found = []
    if threads > cores:
        each = max(cores // len(here), 1)
        found.append(
            Finding(
                WARNING,
                "threads",
                f"{host}: found {_number(threads, 'thread')} in "
                f"{_number(len(here), 'rank')} on {_number(cores, 'core')}, where they wait for "
                f"each other; set OMP_NUM_THREADS={each}"
                + (", or start fewer ranks" if len(here) > cores else ""),
            )
        )
    taken = max(rank.taken for rank in here)
    if taken > max(cores - threads, 0) + HALF_A_CORE:
        free = max(int(cores - taken) // len(here), 1)
        found.append(
            Finding(
                WARNING,
                "busy",
                f"{host}: other processes use {taken:.1f} of {_number(cores, 'core')}, the run "
                f"wants {threads}: speed and times below are those of a busy machine; wait until "
                f"they have ended, choose another host, or set OMP_NUM_THREADS={free}",
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
