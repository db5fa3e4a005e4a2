"""`scemae submit --status`: the state of the chain's jobs, and how far each stage has come."""

import pickletools
import re
import subprocess
from itertools import islice
from pathlib import Path

import psutil

from scemae.cluster import chain
from scemae.cluster.chain import JOBS, Stage
from scemae.config.locations import masked, scheme_of
from scemae.errors import ConfigError, FileError
from scemae.files import disk

# Slurm's states of jobs that run no more.
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "REVOKED",
)


def describe(run_dir: Path) -> str:
    """One line per stage: its job, the job's state, how far it came."""
    lines = []
    kind, stages = chain.read(run_dir)
    for stage in stages:
        state, note = state_of(run_dir, kind, stage.job_id)
        job = stage.job_id or "not started"
        line = f"{stage.name:<10}  {job:<11}  {state:<10}  {progress(stage)}"
        lines.append(line + (f"  ({note})" if note else ""))
    return "\n".join(lines)


def refuse_if_alive(run_dir: Path) -> None:
    """Raise ConfigError where an earlier chain still has jobs, which would use the same folders."""
    if not (run_dir / chain.CHAIN).is_file():
        return
    kind, stages = chain.read(run_dir)
    for stage in stages:
        state, _ = state_of(run_dir, kind, stage.job_id)
        if state not in (*ENDED, "WAITING") and not _is_gone(kind, stage.job_id):
            raise ConfigError(
                f"{run_dir}: found job {stage.job_id} ({stage.name}) {state}; wait for it, "
                "`scancel` it, or choose another run_dir"
            )


def _is_gone(kind: str, job_id: str) -> bool:
    """True where a job without a result certainly runs no more.

    Its process has ended, or the scheduler answers that it knows no such job.
    """
    if kind == "local":
        try:
            return "submitit" not in " ".join(psutil.Process(int(job_id)).cmdline())
        except psutil.NoSuchProcess:
            return True
    command = ["scontrol", "show", "job", "-o", job_id]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "Invalid job id" in done.stderr


def state_of(run_dir: Path, kind: str, job_id: str) -> tuple[str, str]:
    """The state of a job and a remark: by the controller, else accounting, else its files."""
    if not job_id:
        return "WAITING", ""
    # The id comes from a file that anyone may have written, and becomes an argument of a command.
    if not re.fullmatch("[0-9]+", job_id):
        return "UNKNOWN", "its id is no number"
    if kind == "local":
        return _state_by_files(run_dir, job_id, "no result: it is running, or was stopped")
    # One line for a job, or for each element of an array.
    lines = _output_of("scontrol", "show", "job", "-o", job_id).splitlines()
    elements = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    live = [one for one in elements if one.get("JobState") not in (*ENDED, None)]
    record = next(iter(live + elements), {})
    if "JobState" in record:  # the controller forgets jobs some minutes after their end
        notes = [f"restarts: {record['Restarts']}"] if record.get("Restarts", "0") != "0" else []
        if record["JobState"] != "COMPLETED" and record.get("Reason", "None") != "None":
            notes.append(f"reason: {record['Reason']}")
        return record["JobState"], ", ".join(notes)
    words = _output_of("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State").split()
    if words:
        return words[0], ""
    unknown = "the scheduler knows no such job, and it left no result"
    return _state_by_files(run_dir, job_id, unknown)


def _state_by_files(run_dir: Path, job_id: str, otherwise: str) -> tuple[str, str]:
    """The state by submitit's result files: one of a job, or one of each element of an array."""
    known = re.compile(rf"{job_id}(_\d+)?(_0_result|_submitted)\.pkl")
    files = [path for path in (run_dir / JOBS).glob(f"{job_id}_*") if known.fullmatch(path.name)]
    results = [path for path in files if path.name.endswith("_result.pkl")]
    if not results or 2 * len(results) < len(files):  # some element was submitted and left none
        return "UNKNOWN", otherwise
    outcomes = {outcome(path) for path in results}
    if "error" in outcomes:
        return "FAILED", ""
    return ("COMPLETED", "") if outcomes == {"success"} else ("UNKNOWN", otherwise)


def outcome(result: Path) -> str | None:
    """ "success" or "error", by submitit's result file; None if it is not one.

    The file is a pickle of a pair that starts with this text. Unpickling could run foreign code,
    so only its instructions are read, up to the first text.
    """
    try:
        steps = pickletools.genops(disk.read_bytes(result, 64 * disk.MIB))
        texts = (value for code, value, _ in islice(steps, 8) if "UNICODE" in code.name)
        found = next(texts, None)
    except (OSError, ValueError, FileError):
        return None
    return found if found in ("success", "error") else None


def progress(stage: Stage) -> str:
    """How far a stage came, by its folder."""
    folder = Path(stage.folder)
    if stage.name in ("shards", chain.LAST):
        if scheme_of(stage.folder) is not None:
            return f"to {masked(stage.folder)}"
        ready = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
        return f"{', '.join(ready)} in {folder}" if ready else "no shards yet"
    if stage.name == "sweep":
        return f"{len(list(folder.glob('trials/*/end.json')))} trials have ended"
    if stage.name in ("evaluate", "page"):
        result = folder / ("results.json" if stage.name == "evaluate" else "sweep.html")
        missing = "no results yet" if stage.name == "evaluate" else "no page yet"
        return str(result) if result.is_file() else missing
    from scemae.runs.checkpoints import checkpoint
    from scemae.runs.run_folder import provenance

    saved = [checkpoint.place_of(path)[0] for path in checkpoint.committed(folder)]
    found = f"saved at step {max(saved):,}" if saved else "no checkpoint yet"
    total = provenance(folder).get("total_steps")
    return found + (f" of {total:,}" if total else "")


def _output_of(*command: str) -> str:
    """What a command of the cluster prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
