"""A run's folder: held by one process group at a time, with a record of what made the run.

Only what ranks call imports torch, inside the functions: a sweep owns its folder without it.
"""

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
from typing import TYPE_CHECKING, Any

import psutil

import scemae
from scemae import __version__
from scemae.config.load import to_yaml
from scemae.config.locations import masked, masked_all, without_secrets
from scemae.errors import LaunchError, LostRankError, RunFolderError, ScemaeError
from scemae.files import disk, documents
from scemae.files.documents import Count
from scemae.runs.generations import Generation, beating, claim, path_of

if TYPE_CHECKING:
    from scemae.distributed.process_group import Place

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)  # errors that pass on a shared file system
# those that change numbers
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
    """The part of provenance.json that is read again. From `backbone` on, a stage's own facts."""

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

    In the environment, SCEMAE_JOB is the scheduler's name of this job, and SCEMAE_SUBMITTED when it
    was queued (unix time). Raises RunFolderError where another process owns the folder, it is of
    another stage, cannot be made, or has a name that is not UTF-8.
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
    """Raise RunFolderError for a name that is not UTF-8: safetensors cannot read files in it."""
    try:
        str(run_dir).encode()
    except UnicodeEncodeError as error:
        raise RunFolderError(
            f"{run_dir}: found a name that is not UTF-8, which is needed to read weights in it; "
            "choose another run_dir, or start from inside the folder and give a path below it"
        ) from error


@contextmanager
def hold(run_dir: Path, place: "Place", stage: str) -> Iterator[Generation]:
    """Own the run folder for all ranks, through rank 0; where it is refused, every rank raises.

    A rank that fails for a reason of its own writes it down, and the others, which only see that it
    is gone, end for the same reason. Raises RunFolderError as `own`, LaunchError where another rank
    failed, and LostRankError where one died without a reason.
    """
    from scemae.distributed.process_group import agree, is_lost_rank

    with ExitStack() as stack:
        own_generation = refusal = None
        if place.is_first:
            try:
                own_generation = stack.enter_context(own(run_dir, stage))
            except ScemaeError as error:
                refusal = str(error)
        try:
            refusal, number = agree((refusal, own_generation and own_generation.number))
        except Exception as error:
            if is_lost_rank(error):
                raise LostRankError(
                    f"rank {place.rank} lost another rank before it began; the job can start again"
                ) from error
            raise
        if refusal:
            raise RunFolderError(refusal)
        generation = own_generation or Generation(number, path_of(run_dir, number))
        try:
            yield generation
        except Exception as error:
            reason = _reason(error, run_dir, generation.folder, place.rank)
            if reason is error:
                raise
            raise reason from error


def _reason(error: Exception, run_dir: Path, folder: Path, rank: int) -> Exception:
    """What this rank raises for `error`; the others read failed-NNNN.txt where it is to blame."""
    from scemae.distributed.process_group import is_lost_rank

    if isinstance(error, ScemaeError):
        if error.exit_status == 1:
            write_failure(folder, rank, str(error))
        return error
    if isinstance(error, OSError) and error.errno in PASSING:
        return LostRankError(
            f"rank {rank}: {error.filename or run_dir}: {error.strerror}; the job ends and resumes "
            "from its last checkpoint"
        )
    if is_lost_rank(error):
        return find_reason(folder, rank, error)
    write_failure(folder, rank, f"{type(error).__name__}: {error}")
    return error


def write_failure(folder: Path, rank: int, text: str) -> None:
    """Write failed-NNNN.txt: why this rank ends and must not be restarted."""
    try:
        disk.write_text(folder / f"failed-{rank:04d}.txt", without_secrets(text))
    except OSError as error:
        print(f"scemae: {folder}: {error.strerror}", file=sys.stderr)


def find_reason(folder: Path, rank: int, error: Exception, patience: float = 5.0) -> ScemaeError:
    """The error of a rank that lost another: why that one failed, if it wrote that down."""
    until, pause = time.monotonic() + patience, 0.2
    while time.monotonic() < until:
        for path in folder.glob("failed-*.txt"):
            text = path.read_text(encoding="utf8")
            return LaunchError(f"rank {int(path.stem[-4:])} failed: {text}")
        time.sleep(pause)
        pause = min(2 * pause, 1.0)  # all ranks list the folder at once: 7 times, not 25
    what = " ".join(str(error).split())[:200]
    return LostRankError(
        f"rank {rank} lost another rank, which left no reason ({what}); the job ends and resumes "
        "from its last checkpoint"
    )


def describe(run_dir: Path, stage: str, config: Any, **facts: Any) -> None:
    """Write config.yaml and provenance.json: `facts`, and each start's command, commit, machine."""
    from scemae.distributed import tf32

    disk.write_text(run_dir / "config.yaml", to_yaml(config))
    start = {
        "command": shlex.join(["scemae", *map(masked, sys.argv[1:])]),
        "commit": commit(),
        "hardware": hardware(),
        "tf32": tf32.state(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    starts = [*provenance(run_dir).get("starts", []), start]
    record = {"stage": stage, **start, "python": platform.python_version(), "starts": starts}
    record |= {"packages": versions(), **masked_all(facts)}
    disk.write_json(run_dir / "provenance.json", record)


def provenance(run_dir: Path) -> dict:
    """The content of provenance.json; {} where there is none. Raises RunFolderError."""
    path = run_dir / "provenance.json"
    if not path.exists():
        return {}
    remedy = "restore it, or remove it"
    found = documents.read_json(
        path, dict[str, Any], error=RunFolderError, remedy=remedy, finite=False
    )
    documents.convert(found, Provenance, path, error=RunFolderError, remedy=remedy)
    return masked_all(found)  # earlier versions wrote secrets


def versions() -> dict[str, str]:
    """The versions of scemae and of each package that changes its numbers.

    "absent": not installed, such as webdataset, which only shards at a URL need.
    """
    return {"scemae": __version__, **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def commit() -> str:
    """The checkout's commit, with "with changes" where it has any; "unknown" for a package.

    A copy of the code has it in its file COMMIT.
    """
    here = Path(scemae.__file__).resolve().parent
    if (here.parent / "COMMIT").exists():
        return (here.parent / "COMMIT").read_text(encoding="utf8").strip()
    git = ["git", "-C", str(here)]

    def ask(*words: str) -> str:
        done = subprocess.run([*git, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        head, changed = ask("rev-parse", "HEAD"), ask("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + (" with changes" if changed else "")


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB and GPUs of this machine."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")  # psutil does not know the processor's name
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory = psutil.virtual_memory().total / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "gpus": gpus}
