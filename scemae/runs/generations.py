"""Starts of a run, numbered: who owns the run folder, and what of all that was ever written in it counts.

    run_dir/generations/0007/        one folder per start (or roll-back), claimed by an atomic mkdir
        owner.json                   host, process, job, when it was queued and started
        beat                         rewritten every few seconds while its first rank lives
        base.json                    the step it went on from, once that checkpoint is its own
        metrics.jsonl ledger.jsonl   its rows
        rank-0003.log                what that rank did last; stack dumps of a hang

**Fencing.** When a node is cut off and the job restarts elsewhere, the old ranks may live on and write. Every name that
a generation writes or deletes bears its own number (checkpoints too), and a later generation first makes the checkpoint
that it goes on from its own (checkpoint.adopt): no order of events lets an old one touch what a new one uses. What
counts as the run's is decided on reading: of generation g, only steps up to the base of every later one (`upper_step`).
"""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from scemae.errors import FileError, LaunchError, RunFolderError
from scemae.files import disk
from scemae.runs.start_files import METRICS, Owner, base_of, moment, owner_of, rows_of, text_of  # noqa: F401  METRICS: for `rows`

GENERATIONS = "generations"
BEAT_SECONDS, SILENT_BEATS, FRUITLESS = 2.0, 5, 5
IMPORTED = time.time()


@dataclass
class Generation:
    """One start of a run: its number, and its folder."""

    number: int
    folder: Path

    @property
    def is_superseded(self) -> bool:
        """True once a later generation has claimed the run: this one must stop."""
        return (
            numbers(self.folder.parent.parent)[-1] > self.number
        )  # listed: NFS may remember that a name was absent

    def record_base(self, step: int) -> None:
        """Declare the step that this generation goes on from: later steps of earlier ones no longer count."""
        disk.write_json(self.folder / "base.json", {"step": step})

    def claim_next(self) -> str | None:
        """Claim the next generation for this same process, for a roll-back; returns why that fails, or None."""
        following = path_of(self.folder.parent.parent, self.number + 1)
        try:
            following.mkdir()
            disk.write_json(
                following / "owner.json",
                {
                    **asdict(owner_of(self.folder)),
                    "rolled_back": True,
                    "queued": None,
                    "started": time.time(),
                },
            )
        except FileExistsError:
            return f"{following}: another process has taken the run over"
        except OSError as error:
            return f"{following}: cannot be made ({error.strerror}); make room and start again"
        return None

    def move_on(self) -> None:
        """Become the generation that was claimed."""
        self.number, self.folder = (
            self.number + 1,
            path_of(self.folder.parent.parent, self.number + 1),
        )


def path_of(run_dir: Path, number: int) -> Path:
    """The folder of a generation."""
    return run_dir / GENERATIONS / f"{number:04d}"


def numbers(run_dir: Path) -> list[int]:
    """The generations of a run so far, oldest first."""
    try:
        return sorted(
            int(name)
            for name in os.listdir(run_dir / GENERATIONS)
            if re.fullmatch("[0-9]{4,9}", name)
        )
    except FileNotFoundError:
        return []


def base_steps(run_dir: Path) -> dict[int, int]:
    """For each generation that has begun to train, the step it went on from."""
    found = {}
    for number in numbers(run_dir):
        base = base_of(path_of(run_dir, number))
        if base is not None:
            found[number] = base
    return found


def upper_step(bases: dict[int, int], number: int) -> float:
    """The last step of a generation that counts: later generations went on from there, or from before it."""
    return min((step for later, step in bases.items() if later > number), default=float("inf"))


def rows(run_dir: Path, file: str) -> list[dict]:
    """The rows of `file` that count, over all generations, each with its "step"; a torn last line is left out."""
    return [row for row, counts in all_rows(run_dir, file) if counts]


def all_rows(run_dir: Path, file: str) -> Iterator[tuple[dict, bool]]:
    """Every row ever written, and whether it counts; rows of work that was lost and done again do not. One marked "late"
    tells more of the step that its generation went on from. Each row gets its "generation". Raises RunFolderError."""
    bases = base_steps(run_dir)
    for number, base in bases.items():
        upper = upper_step(bases, number)
        path = path_of(run_dir, number) / file
        for row in rows_of(path) if path.exists() else []:
            row["generation"] = number
            yield (
                row,
                (base < row["step"] or (bool(row.get("late")) and row["step"] == base))
                and row["step"] <= upper,
            )


def seconds_of(folder: Path) -> float:
    """How long the start in `folder` has lived: from its start to its end, or to its last beat."""
    began, ended, beat = (
        owner_of(folder).started,
        text_of(folder / "ended"),
        text_of(folder / "beat").split(),
    )
    last = moment(ended.strip() or (beat[2] if len(beat) == 3 else ""))
    return max(last - began, 0.0) if None not in (began, last) else 0.0


def refuse_crash_loop(run_dir: Path, job: str | None) -> None:
    """Raise LaunchError where the same job was started FRUITLESS times in a row without getting any further."""
    last = numbers(run_dir)[-FRUITLESS:]
    if job is None or len(last) < FRUITLESS:
        return
    bases = [base_of(path_of(run_dir, number)) for number in last]
    owners = [owner_of(path_of(run_dir, number)) for number in last]
    if len(set(bases)) == 1 and all(owner.job == job and not owner.rolled_back for owner in owners):
        raise LaunchError(
            f"{run_dir}: found {FRUITLESS} starts of {job} in a row that got no further than "
            f"{'their start' if bases[0] is None else f'step {bases[0]}'}; see the rank-*.log files in {path_of(run_dir, last[-1])}, mend what ends them "
            "and submit it anew"
        )


def claim(run_dir: Path, job: str | None, queued: float | None) -> Generation:
    """Become the owner of a run folder. Raises RunFolderError where another process lives in it, or it cannot be made.

    `job` is the scheduler's identity of this job, the same after a restart: a job takes over from itself at once.
    An owner of whom nothing is known is watched for some seconds: only one whose beat goes on is alive.
    """
    try:
        disk.make_folders(run_dir / GENERATIONS, run_dir)
        earlier = numbers(run_dir)
        refuse_crash_loop(run_dir, job)
        if earlier:
            refuse_living(run_dir, path_of(run_dir, earlier[-1]), job)
        number = earlier[-1] + 1 if earlier else 1
        path_of(run_dir, number).mkdir()
        owner = {**identity(), "job": job, "queued": queued, "started": started()}
        disk.write_json(path_of(run_dir, number) / "owner.json", owner)
    except FileError as error:
        raise RunFolderError(str(error)) from error
    except FileExistsError as error:
        raise RunFolderError(
            f"{run_dir}: another process has just claimed it; wait for it, or choose another "
            "run_dir"
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"{run_dir}: cannot be written ({error.strerror}); choose another run_dir, or make room "
            "there"
        ) from error
    return Generation(number, path_of(run_dir, number))


@contextmanager
def beating(generation: Generation) -> Iterator[None]:
    """Show that this generation lives, until the block ends; then leave word that it has ended."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT_SECONDS if count else 0):
            count += 1
            try:
                disk.overwrite(
                    generation.folder / "beat", f"{count} {identity()['host']} {time.time():.2f}\n"
                )
            except (
                OSError,
                FileError,
            ):  # a full disk: then others may take this run for dead, which fencing makes harmless
                pass

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        try:
            disk.overwrite(generation.folder / "ended", f"{time.time():.2f}\n")
        except (OSError, FileError):
            pass


def refuse_living(run_dir: Path, folder: Path, job: str | None) -> None:
    """Raise RunFolderError if the owner of the generation in `folder` is alive, and not this job's own past."""
    owner = owner_of(folder)
    if (
        (folder / "ended").exists()
        or (job is not None and owner.job == job)
        or _is_dead_here(owner)
    ):
        return
    if not _is_here(owner):
        first = text_of(folder / "beat")
        for _ in range(SILENT_BEATS):
            time.sleep(BEAT_SECONDS)
            if text_of(folder / "beat") != first or (folder / "ended").exists():
                break
        else:
            return
        if (folder / "ended").exists():
            return
    raise RunFolderError(
        f"{run_dir}: in use by process {owner.pid} on {owner.host}; wait for it, stop "
        "it, or choose another run_dir"
    )


def identity() -> dict:
    """This process, as another process of the same machine can look for it."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "namespace": _namespace(),
    }


def started() -> float:
    """When this process began, in unix time; where /proc does not say, when this module was imported."""
    ticks = _born(os.getpid())
    if ticks is None:
        return IMPORTED
    return (
        time.time()
        - time.clock_gettime(time.CLOCK_BOOTTIME)
        + int(ticks) / os.sysconf("SC_CLK_TCK")
    )


def _is_here(owner: Owner) -> bool:
    return (owner.host, owner.namespace) == (socket.gethostname(), _namespace())


def _is_dead_here(owner: Owner) -> bool:
    return _is_here(owner) and owner.pid is not None and _born(owner.pid) != owner.born


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


def _born(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None where it is gone."""
    stat = text_of(Path(f"/proc/{pid}/stat"))
    if not stat:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]
