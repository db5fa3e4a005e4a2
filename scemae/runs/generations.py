"""Generations: the numbered starts of a run. They decide who owns the run folder, and which of the
rows and checkpoints in it count.

    run_dir/generations/0007/        one folder per start (or roll-back), claimed by an atomic mkdir
        owner.json                   host, process, job, when it was queued and started
        beat                         rewritten every few seconds while rank 0 lives
        base.json                    the step it resumed from, once that checkpoint is its own
        metrics.jsonl ledger.jsonl   its rows
        rank-0003.log                what that rank did last; stack dumps of a hang
        ended                        when it ended

**Fencing.** When a node is cut off and the job restarts elsewhere, the old ranks may live on and
write. So every name that a generation writes or deletes contains its number (checkpoints too), and
a new generation first makes the checkpoint that it resumes from its own (checkpoint.adopt): an old
generation can never touch what a new one uses. Which rows count is decided on reading: of a
generation, only steps up to the base of every later one (`upper_step`).
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
from scemae.runs.generation_files import Owner, base_of, moment, owner_of, rows_of, text_of

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
        # by a listing: NFS may cache that a name was absent
        return numbers(self.folder.parent.parent)[-1] > self.number

    def record_base(self, step: int) -> None:
        """Record the step that this generation resumes from.

        Later steps of earlier generations no longer count then.
        """
        disk.write_json(self.folder / "base.json", {"step": step})

    def claim_next(self) -> str | None:
        """Claim the next generation for this same process, for a roll-back.

        Returns why that fails, or None.
        """
        following = path_of(self.folder.parent.parent, self.number + 1)
        new = {"rolled_back": True, "queued": None, "started": time.time()}
        try:
            following.mkdir()
            disk.write_json(following / "owner.json", asdict(owner_of(self.folder)) | new)
        except FileExistsError:
            return f"{following}: another process has taken the run over"
        except OSError as error:
            return f"{following}: cannot be made ({error.strerror}); make room and start again"
        return None

    def move_on(self) -> None:
        """Become the generation that `claim_next` has claimed."""
        self.number += 1
        self.folder = path_of(self.folder.parent.parent, self.number)


def path_of(run_dir: Path, number: int) -> Path:
    """The folder of a generation."""
    return run_dir / GENERATIONS / f"{number:04d}"


def numbers(run_dir: Path) -> list[int]:
    """The generations of a run so far, oldest first."""
    try:
        names = os.listdir(run_dir / GENERATIONS)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if re.fullmatch("[0-9]{4,9}", name))


def base_steps(run_dir: Path) -> dict[int, int]:
    """For each generation that has begun to train, the step it resumed from."""
    found = {}
    for number in numbers(run_dir):
        base = base_of(path_of(run_dir, number))
        if base is not None:
            found[number] = base
    return found


def upper_step(bases: dict[int, int], number: int) -> float:
    """The last step of a generation that counts: the earliest base of the later generations."""
    return min((step for later, step in bases.items() if later > number), default=float("inf"))


def rows(run_dir: Path, file: str) -> list[dict]:
    """The rows of `file` that count, over all generations (`all_rows`)."""
    return [row for row, counts in all_rows(run_dir, file) if counts]


def all_rows(run_dir: Path, file: str) -> Iterator[tuple[dict, bool]]:
    """Every row that was ever written, with its "generation", and whether it counts.

    Rows of steps that were lost and trained again do not count. A row marked "late" adds to the
    step that its generation resumed from. Raises RunFolderError.
    """
    bases = base_steps(run_dir)
    for number, base in bases.items():
        upper = upper_step(bases, number)
        path = path_of(run_dir, number) / file
        for row in rows_of(path) if path.exists() else []:
            row["generation"] = number
            is_own = row["step"] > base or (bool(row.get("late")) and row["step"] == base)
            yield row, is_own and row["step"] <= upper


def seconds_of(folder: Path) -> float:
    """How long the generation in `folder` lived: from its start to its end, or its last beat."""
    began, beat = owner_of(folder).started, text_of(folder / "beat").split()
    last = moment(text_of(folder / "ended").strip() or (beat[2] if len(beat) == 3 else ""))
    return 0.0 if began is None or last is None else max(last - began, 0.0)


def refuse_crash_loop(run_dir: Path, job: str | None) -> None:
    """Raise LaunchError where a job was started FRUITLESS times in a row without progress."""
    last = numbers(run_dir)[-FRUITLESS:]
    if job is None or len(last) < FRUITLESS:
        return
    bases = [base_of(path_of(run_dir, number)) for number in last]
    owners = [owner_of(path_of(run_dir, number)) for number in last]
    if len(set(bases)) == 1 and all(owner.job == job and not owner.rolled_back for owner in owners):
        where = "their start" if bases[0] is None else f"step {bases[0]}"
        raise LaunchError(
            f"{run_dir}: found {FRUITLESS} starts of {job} in a row that got no further than "
            f"{where}; see the rank-*.log files in {path_of(run_dir, last[-1])}, correct the "
            "cause and submit the job again"
        )


def claim(run_dir: Path, job: str | None, queued: float | None) -> Generation:
    """Become the owner of a run folder, by claiming its next generation.

    `job` is the scheduler's name of this job, the same after a restart: a job takes over from
    itself at once. An owner on another host counts as alive where its beat is renewed within some
    seconds. Raises RunFolderError where the owner is alive, or the folder cannot be written.
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
            f"{run_dir}: another process has just claimed it; wait for it, or give another run_dir"
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"{run_dir}: cannot be written ({error.strerror}); choose another run_dir, or make room"
        ) from error
    return Generation(number, path_of(run_dir, number))


@contextmanager
def beating(generation: Generation) -> Iterator[None]:
    """Write `beat` every few seconds until the block ends, and then `ended`."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT_SECONDS if count else 0):
            count += 1
            text = f"{count} {socket.gethostname()} {time.time():.2f}\n"
            try:
                disk.overwrite(generation.folder / "beat", text)
            except (OSError, FileError):
                pass  # a full disk: others may take this run for dead, which fencing makes harmless

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
    """Raise RunFolderError where the owner of the generation in `folder` is alive.

    An earlier start of this same job is not refused.
    """
    owner = owner_of(folder)
    is_same_job = job is not None and owner.job == job
    if is_same_job or (folder / "ended").exists() or _is_dead_here(owner):
        return
    if _is_here(owner) or _is_renewed(folder):
        raise RunFolderError(
            f"{run_dir}: in use by process {owner.pid} on {owner.host}; wait for it, stop it, or "
            "choose another run_dir"
        )


def _is_renewed(folder: Path) -> bool:
    """True where the beat in `folder` is renewed within SILENT_BEATS beats."""
    first = text_of(folder / "beat")
    for _ in range(SILENT_BEATS):
        time.sleep(BEAT_SECONDS)
        if (folder / "ended").exists():
            return False
        if text_of(folder / "beat") != first:
            return True
    return False


def identity() -> dict:
    """This process, described so that another process of the same machine can find it."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "born": _start_ticks(os.getpid()),
        "namespace": _namespace(),
    }


def started() -> float:
    """When this process began, in unix time; where /proc does not say, when it imported this file.

    psutil adds the ticks to the kernel's boot time, which is in whole seconds.
    """
    ticks = _start_ticks(os.getpid())
    if ticks is None:
        return IMPORTED
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + int(ticks) / os.sysconf("SC_CLK_TCK")


def _is_here(owner: Owner) -> bool:
    return (owner.host, owner.namespace) == (socket.gethostname(), _namespace())


def _is_dead_here(owner: Owner) -> bool:
    return _is_here(owner) and owner.pid is not None and _start_ticks(owner.pid) != owner.born


def _namespace() -> str:
    """The namespace of process numbers: in another container the same number is another process."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"


def _start_ticks(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None where it has ended.

    Read from /proc because psutil's create_time moves when the clock is set.
    """
    stat = text_of(Path(f"/proc/{pid}/stat"))
    if not stat:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]
