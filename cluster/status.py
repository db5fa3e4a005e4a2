"""`scemae submit --status`: the chain's jobs as the scheduler knows them, and what each stage has left behind."""

import pickletools
import re
import subprocess
from itertools import islice
from pathlib import Path

from scemae.cluster import chain
from scemae.cluster.chain import JOBS, Stage
from scemae.errors import ConfigError, FileError
from scemae.files import disk

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
        lines.append(
            f"{stage.name:<10}  {stage.job_id or 'not started':<11}  {state:<10}  {progress(stage)}"
            + (f"  ({note})" if note else "")
        )
    return "\n".join(lines)


def refuse_if_alive(run_dir: Path) -> None:
    """Raise ConfigError where an earlier chain in run_dir still has jobs: two would fight over its folders."""
    if not (run_dir / chain.CHAIN).is_file():
        return
    kind, stages = chain.read(run_dir)
    for stage in stages:
        state, _ = state_of(run_dir, kind, stage.job_id)
        if state not in (*ENDED, "WAITING") and not _is_gone(kind, stage.job_id):
            raise ConfigError(
                f"{run_dir}: found job {stage.job_id} ({stage.name}) {state}; wait for it, `scancel` it, "
                "or choose another run_dir"
            )


def _is_gone(kind: str, job_id: str) -> bool:
    """True where a job that left no result certainly runs no more: its process has ended, or the scheduler is there and
    knows no such job."""
    if kind == "local":
        process = Path(f"/proc/{job_id}/cmdline")
        return not (process.exists() and b"submitit" in process.read_bytes())
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", "-o", job_id], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "Invalid job id" in done.stderr


def state_of(run_dir: Path, kind: str, job_id: str) -> tuple[str, str]:
    """The state of a job and a remark: from the controller, else from accounting, else from what the job left."""
    if not job_id:
        return "WAITING", ""
    if not re.fullmatch(
        "[0-9]+", job_id
    ):  # of somebody's chain.json, and about to be a word of a command
        return "UNKNOWN", "its id is no number"
    if kind == "local":
        return _left_behind(run_dir, job_id, "no result: it is running, or was stopped")
    elements = [
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in _ask("scontrol", "show", "job", "-o", job_id).splitlines()
    ]  # one, or those of an array
    record = next(
        (one for one in elements if one.get("JobState") not in (*ENDED, None)),
        elements[0] if elements else {},
    )
    if "JobState" in record:  # it forgets jobs some minutes after their end
        notes = [f"restarts: {record['Restarts']}"] if record.get("Restarts", "0") != "0" else []
        if record["JobState"] != "COMPLETED" and record.get("Reason", "None") != "None":
            notes.append(f"reason: {record['Reason']}")
        return record["JobState"], ", ".join(notes)
    words = _ask("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "State").split()
    return (
        (words[0], "")
        if words
        else _left_behind(run_dir, job_id, "the scheduler knows no such job, and it left no result")
    )


def _left_behind(run_dir: Path, job_id: str, otherwise: str) -> tuple[str, str]:
    """What submitit's result files say of a job that no scheduler knows (any more): one, or one of each element of an array."""
    known = re.compile(rf"{job_id}(_\d+)?(_0_result|_submitted)\.pkl")
    files = [path for path in (run_dir / JOBS).glob(f"{job_id}_*") if known.fullmatch(path.name)]
    results = [path for path in files if path.name.endswith("_result.pkl")]
    if not results or 2 * len(results) < len(files):  # some element was submitted and left none
        return "UNKNOWN", otherwise
    outcomes = {outcome(path) for path in results}
    return (
        ("FAILED", "")
        if "error" in outcomes
        else ("COMPLETED", "")
        if outcomes == {"success"}
        else ("UNKNOWN", otherwise)
    )


def outcome(result: Path) -> str | None:
    """ "success" or "error", as submitit's result file says: a pickle of a pair whose first half this is. It is not unpickled,
    which would run what somebody has put in it; its instructions are read, up to the first text. None where it is no such file."""
    try:
        steps = pickletools.genops(disk.read_bytes(result, 64 * disk.MIB))
        said = next((value for code, value, _ in islice(steps, 8) if "UNICODE" in code.name), None)
    except (OSError, ValueError, FileError):
        return None
    return said if said in ("success", "error") else None


def progress(stage: Stage) -> str:
    """How far a stage came, read from its folder."""
    folder = Path(stage.folder)
    if stage.name == "shards":
        ready = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
        return f"{', '.join(ready)} in {folder}" if ready else "no shards yet"
    if stage.name == "evaluate":
        return (
            f"{folder / 'results.json'}"
            if (folder / "results.json").is_file()
            else "no results yet"
        )
    if stage.name == "sweep":
        return f"{len(list(folder.glob('trials/*/end.json')))} trials have ended"
    if stage.name == "page":
        return f"{folder / 'sweep.html'}" if (folder / "sweep.html").is_file() else "no page yet"
    from scemae.runs.checkpoints import checkpoint
    from scemae.runs.run_folder import provenance

    saved = [checkpoint.place_of(path)[0] for path in checkpoint.committed(folder)]
    total = provenance(folder).get("total_steps")
    return (f"saved at step {max(saved):,}" if saved else "no checkpoint yet") + (
        f" of {total:,}" if total else ""
    )


def _ask(*command: str) -> str:
    """What a command of the cluster prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
