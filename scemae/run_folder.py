"""A run's folder: one process group at a time, and everything needed to know what made it."""

import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scemae.config import to_yaml
from scemae.data.manifest import write_json
from scemae.distributed import Place, agree
from scemae.errors import RunFolderError

PACKAGES = ("scemae", "torch", "torchvision", "deepspeed", "timm", "webdataset", "numpy", "pillow", "simplejpeg")


@contextmanager
def lock(run_dir: Path, stage: str) -> Iterator[None]:
    """Hold the run folder for this process and one stage ("pretrain", "correspond" or "evaluate").

    Raises RunFolderError where another process holds it, where it is another stage's, or where it cannot be made.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(run_dir / ".lock", "a+", encoding="utf8")
    except OSError as error:
        raise RunFolderError(f"{run_dir}: cannot be written ({error.strerror}); choose another run_dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RunFolderError(f"{run_dir}: in use by process {file.read().strip() or 'unknown'}; wait for it, "
                                 "stop it, or choose another run_dir") from error
        except OSError as error:
            raise RunFolderError(f"{run_dir}: cannot be locked ({error.strerror}); put it on a file system with locks, "
                                 "or choose another run_dir") from error
        other = provenance(run_dir).get("stage", stage)
        if other != stage:
            raise RunFolderError(f"{run_dir}: found a run of `scemae {other}` in it; choose another run_dir")
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield


@contextmanager
def hold(run_dir: Path, place: Place, stage: str) -> Iterator[None]:
    """Lock the run folder on rank 0 for all ranks; where that fails, every rank raises RunFolderError."""
    with ExitStack() as stack:
        refused = None
        if place.is_first:
            try:
                stack.enter_context(lock(run_dir, stage))
            except RunFolderError as error:
                refused = str(error)
        refused = agree(refused)
        if refused:
            raise RunFolderError(refused)
        yield


def describe(run_dir: Path, stage: str, config: Any, **facts: Any) -> None:
    """Write config.yaml and provenance.json: the facts given, and for each start its command, commit and machine."""
    (run_dir / "config.yaml").write_text(to_yaml(config), encoding="utf8")
    start = {"command": " ".join(["scemae", *sys.argv[1:]]), "commit": commit(), "hardware": hardware(),
             "time": datetime.now(UTC).isoformat(timespec="seconds")}
    starts = [*provenance(run_dir).get("starts", []), start]
    write_json(run_dir / "provenance.json", {
        "stage": stage, **start, "python": platform.python_version(), "starts": starts,
        "packages": {name: version(name) for name in PACKAGES}, **facts})


def provenance(run_dir: Path) -> dict:
    """What `describe` wrote, or nothing."""
    path = run_dir / "provenance.json"
    return json.loads(path.read_text(encoding="utf8")) if path.exists() else {}


def commit() -> str:
    """The checkout's commit, marked where it has changes; "unknown" for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "gpus": gpus}
