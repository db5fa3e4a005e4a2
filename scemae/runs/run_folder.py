"""A run's folder: one process group at a time, and everything needed to know what made it."""

import errno
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import scemae
from scemae import __version__
from scemae.config.load import to_yaml
from scemae.config.locations import masked, masked_all, without_secrets
from scemae.distributed import tf32
from scemae.distributed.process_group import Place, agree, is_lost_rank
from scemae.errors import LaunchError, LostRankError, RunFolderError, ScemaeError
from scemae.files import disk, documents
from scemae.files.documents import Count
from scemae.runs.generations import Generation, beating, claim, path_of

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)  # what a shared file system gets over
PACKAGES = (
    "torch",
    "torchvision",
    "deepspeed",
    "timm",
    "webdataset",
    "numpy",
    "pillow",
    "simplejpeg",
)


@dataclass
class Hardware:
    """The machine of a start, as `hardware` describes it."""

    cpu: str
    cores: Count | None
    memory_gib: float
    gpus: list[str]


@dataclass
class Provenance:
    """The part of provenance.json that is read again; `backbone`, `projector`, `carb`, ... are facts of a stage."""

    stage: str | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)
    command: str | None = None
    commit: str | None = None
    packages: dict[str, str | None] | None = None
    hardware: Hardware | None = None
    backbone: str | None = None
    projector: str | None = None
    carb: dict[str, Any] | None = None
    images: Count | None = None
    total_steps: Count | None = None


@contextmanager
def own(run_dir: Path, stage: str) -> Iterator[Generation]:
    """Own the run folder in this process, for one stage ("pretrain", "correspond" or "evaluate").

    SCEMAE_JOB and SCEMAE_SUBMITTED in the environment: the scheduler's identity of this job, and when it was queued (unix
    time). Raises RunFolderError where another process owns it, where it is another stage's, cannot be made, or has a name
    that is not UTF-8.
    """
    refuse_unreadable(run_dir)
    other = provenance(run_dir).get("stage", stage)
    if other != stage:
        raise RunFolderError(
            f"{run_dir}: found a run of `scemae {other}` in it; choose another run_dir"
        )
    queued = os.environ.get("SCEMAE_SUBMITTED", "")
    generation = claim(
        run_dir, os.environ.get("SCEMAE_JOB") or None, float(queued) if queued.isdigit() else None
    )
    with beating(generation):
        yield generation


def refuse_unreadable(run_dir: Path) -> None:
    """Raise RunFolderError where checkpoints could be written and never read: safetensors takes names in UTF-8 alone."""
    try:
        str(run_dir).encode()
    except UnicodeEncodeError as error:
        raise RunFolderError(
            f"{run_dir}: found a name that is not UTF-8, which is needed to read weights in it; choose another "
            "run_dir, or start from inside the folder and give a path below it"
        ) from error


@contextmanager
def hold(run_dir: Path, place: Place, stage: str) -> Iterator[Generation]:
    """Own the run folder for all ranks, through rank 0; where that fails, every rank raises RunFolderError.

    A rank that fails alone leaves word, so that the others, who only see it gone, end for the same reason: raises
    LaunchError there, or LostRankError where a rank died without a word.
    """
    with ExitStack() as stack:
        refused = generation = None
        if place.is_first:
            try:
                generation = stack.enter_context(own(run_dir, stage))
            except ScemaeError as error:
                refused = str(error)
        try:
            refused, number = agree((refused, generation and generation.number))
        except Exception as error:
            if is_lost_rank(error):
                raise LostRankError(
                    f"rank {place.rank} lost another rank before it began; the job can start again"
                ) from error
            raise
        if refused:
            raise RunFolderError(refused)
        generation = generation or Generation(number, path_of(run_dir, number))
        try:
            yield generation
        except ScemaeError as error:
            if error.exit_status == 1:
                leave_word(generation.folder, place.rank, str(error))
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise LostRankError(
                    f"rank {place.rank}: {error.filename or run_dir}: {error.strerror}; the job ends and goes "
                    "on from its last checkpoint"
                ) from error
            if not is_lost_rank(error):
                leave_word(generation.folder, place.rank, f"{type(error).__name__}: {error}")
                raise
            raise find_reason(generation.folder, place.rank, error) from error


def leave_word(folder: Path, rank: int, text: str) -> None:
    """Say why this rank ends for good."""
    try:
        disk.write_text(folder / f"failed-{rank:04d}.txt", without_secrets(text))
    except OSError as error:
        print(f"scemae: {folder}: {error.strerror}", file=sys.stderr)


def find_reason(folder: Path, rank: int, error: Exception, patience: float = 5.0) -> ScemaeError:
    """Why another rank is gone: what it left as its last word, or nothing."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        for path in folder.glob("failed-*.txt"):
            return LaunchError(
                f"rank {int(path.stem[-4:])} failed: {path.read_text(encoding='utf8')}"
            )
        time.sleep(0.2)
    what = " ".join(str(error).split())[:200]
    return LostRankError(
        f"rank {rank} lost another rank, which left no word ({what}); the job ends and goes on from its "
        "last checkpoint"
    )


def describe(run_dir: Path, stage: str, config: Any, **facts: Any) -> None:
    """Write config.yaml and provenance.json: the facts given, and for each start its command, commit and machine."""
    disk.write_text(run_dir / "config.yaml", to_yaml(config))
    start = {
        "command": shlex.join(["scemae", *map(masked, sys.argv[1:])]),
        "commit": commit(),
        "hardware": hardware(),
        "tf32": tf32.state(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    starts = [*provenance(run_dir).get("starts", []), start]
    disk.write_json(
        run_dir / "provenance.json",
        {
            "stage": stage,
            **start,
            "python": platform.python_version(),
            "starts": starts,
            "packages": versions(),
            **masked_all(facts),
        },
    )


def provenance(run_dir: Path) -> dict:
    """What `describe` wrote, or nothing. Raises RunFolderError where something else stands there."""
    path = run_dir / "provenance.json"
    if not path.exists():
        return {}
    found = documents.read_json(
        path, dict[str, Any], error=RunFolderError, remedy="restore it, or remove it", finite=False
    )
    documents.convert(
        found, Provenance, path, error=RunFolderError, remedy="restore it, or remove it"
    )
    return masked_all(found)  # earlier versions hid nothing


def versions() -> dict[str, str]:
    """The version of this code and of each package that changes its numbers; "absent" where one is not installed, as scemae
    itself need not be, and webdataset, which only building shards needs."""
    return {"scemae": __version__, **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def commit() -> str:
    """The checkout's commit, marked where it has changes; a snapshot's from its COMMIT file; "unknown" if installed."""
    here = Path(scemae.__file__).resolve().parent
    if (here.parent / "COMMIT").exists():
        return (here.parent / "COMMIT").read_text(encoding="utf8").strip()
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + (" with changes" if changed.strip() else "")


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB and GPUs of this machine."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory = psutil.virtual_memory().total / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "gpus": gpus}
