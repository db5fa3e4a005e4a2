"""Worker processes that try inputs, and their parent.

The parent gives them work, ends those that hang, and counts what happened.
"""

import faulthandler
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path

import torch

from tests.fuzz.guard import ACCEPTED, BAD, DEATH, HANG, REFUSED, Guard, Outcome
from tests.fuzz.place import Place, try_one
from tests.fuzz.target import Target

FORK = multiprocessing.get_context("fork")  # this process has imported all that inputs need
BATCH = 100  # inputs that a worker gets at once
PATIENCE = 10.0  # seconds of processor time that one input may take
WALL = 60.0  # seconds by the clock that one input may take; more, as the machine may be busy
SWELLING = 700 * 2**20  # bytes that a worker may gain over all its inputs; then another replaces it
SWOLLEN = 3  # its exit status then


@dataclass
class Finding:
    """A fault: the first input that showed it, and how many did."""

    target: str
    kind: str
    signature: str
    number: int
    text: str
    times: int = 1


@dataclass
class Tally:
    """What happened to the inputs of one target."""

    counts: Counter = field(default_factory=Counter)
    seconds: float = 0.0


def work(
    pipe: connection.Connection, shown, root: Path, targets: Mapping[str, Target], seed: int
) -> None:
    """A worker: takes jobs (target, first, last, until) from `pipe`, sends what it finds.

    After each job it sends ("done", seconds). shown: numbers that the parent reads at any time, see
    `Worker`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes; the parent obeys them
        signal.signal(number, lambda number, frame: None)  # SIG_IGN would be inherited
    torch.set_num_threads(1)  # a fork has none of its parent's threads, and would wait for them
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    folder = root / f"worker-{os.getpid():07d}"
    stack = open(root / f"stack-{os.getpid():07d}", "w", encoding="utf8")
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGUSR1, stack)
    guard, place, begun = Guard(folder), None, _resident()
    while job := pipe.recv():
        name, first, last, until = job
        shown[:4] = first, 0, 0, 0  # first, as `Place` may end the worker
        if place is None or place.target.name != name:
            place = Place(folder, targets[name], root / "seeds")
        started = time.monotonic()
        for number in range(first, last):
            if time.monotonic() > until:
                break
            shown[0], shown[4], shown[1] = number, time.process_time(), time.monotonic()
            outcome = try_one(place, guard, seed, number)
            shown[1] = 0
            if outcome.kind in BAD:
                pipe.send((number, outcome))
            else:
                shown[2 if outcome.kind == ACCEPTED else 3] += 1
        pipe.send(("done", time.monotonic() - started))
        if _resident() - begun > SWELLING:
            os._exit(SWOLLEN)
    os._exit(0)


Ended = Callable[[str, Tally], object]


class Worker:
    """A worker as the parent sees it."""

    def __init__(self, root: Path, targets: Mapping[str, Target], seed: int) -> None:
        self.pipe, theirs = FORK.Pipe()
        # number of the input, its start (0: none), accepted, refused, processor time at its start
        self.shown = FORK.RawArray("d", 5)
        self.process = FORK.Process(target=work, args=(theirs, self.shown, root, targets, seed))
        self.process.start()
        theirs.close()
        self.job: tuple[str, int, int] | None = None

    def give(self, job: tuple[str, int, int] | None, until: float = 0.0) -> None:
        """Give the worker inputs to try until a time; None asks it to end."""
        self.job = job
        try:
            self.pipe.send(job and (*job, until))
        except OSError:  # it has ended meanwhile, which `ended` will show
            pass

    @property
    def is_stuck(self) -> bool:
        """True where the worker's input takes too long."""
        if self.job is None or not self.shown[1]:
            return False
        waited = time.monotonic() - self.shown[1]
        return (
            waited > WALL
            or waited > PATIENCE
            and _processor_time(self.process.pid) - self.shown[4] > PATIENCE
        )


class Pool:
    """The parent: `run` gives out the jobs; then `tallies` and `findings` say what happened."""

    def __init__(
        self, root: Path, targets: Mapping[str, Target], seed: int, workers: int, ended: Ended
    ) -> None:
        """ended: called for each target when all its inputs are done."""
        self.root, self.targets, self.seed, self.ended = root, targets, seed, ended
        self.jobs: Counter[str] = Counter()  # of each target, not yet done
        self.tallies = {name: Tally() for name in targets}
        self.findings: dict[tuple, Finding] = {}
        self.workers = [self._worker() for _ in range(workers)]

    def run(self, jobs: Iterable[tuple[str, int, int]], until: float) -> None:
        """Try all the inputs of `jobs`, or those that fit before `until` (time.monotonic)."""
        waiting = deque(jobs)
        self.jobs = Counter(name for name, _, _ in waiting)
        while waiting or any(worker.job for worker in self.workers):
            for place, worker in enumerate(self.workers):
                if worker.job is None and waiting and time.monotonic() < until:
                    worker.give(waiting.popleft(), until)
                self._hear(worker)
                if worker.is_stuck or not worker.process.is_alive():
                    self._replace(place, waiting)
            if time.monotonic() > until:
                waiting.clear()
            connection.wait([worker.pipe for worker in self.workers], 0.1)
        for worker in self.workers:
            worker.give(None)
            worker.process.join(5)

    def stop(self) -> None:
        """End the workers now; what their last jobs have done is counted."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
            self._hear(worker)
            if worker.job:
                self._count(worker.job[0], worker)

    def _worker(self) -> Worker:
        return Worker(self.root, self.targets, self.seed)

    def _hear(self, worker: Worker) -> None:
        try:
            while worker.pipe.poll():
                number, what = worker.pipe.recv()
                if number == "done":
                    (name, _, _), worker.job = worker.job, None  # now: `stop` counts what has a job
                    self._count(name, worker)
                    self.tallies[name].seconds += what
                    self._end(name)
                else:
                    self._note(worker.job[0], number, what)
        except (EOFError, OSError):
            return

    def _end(self, target: str) -> None:
        """Count a job of this target as ended; call `ended` after its last one."""
        self.jobs[target] -= 1
        if not self.jobs[target]:
            self.ended(target, self.tallies[target])

    def _count(self, target: str, worker: Worker) -> None:
        counts = self.tallies[target].counts
        counts[ACCEPTED] += int(worker.shown[2])
        counts[REFUSED] += int(worker.shown[3])

    def _note(self, target: str, number: int, outcome: Outcome) -> None:
        self.tallies[target].counts[outcome.kind] += 1
        known = self.findings.setdefault(
            (target, outcome.kind, outcome.signature),
            Finding(target, outcome.kind, outcome.signature, number, outcome.text, 0),
        )
        known.times += 1

    def _replace(self, place: int, waiting: deque) -> None:
        """Another worker for one that hangs or has ended.

        The input it was at is counted; the rest of its job is tried later.
        """
        worker = self.workers[place]
        kind, number = HANG if worker.is_stuck else DEATH, int(worker.shown[0])
        stack = self._stack(worker)
        worker.process.kill()
        worker.process.join()
        self._hear(worker)
        if worker.job and worker.process.exitcode == SWOLLEN:
            waiting.appendleft(worker.job)
        elif worker.job:
            name, _, last = worker.job
            self._count(name, worker)
            text = f"input {number}: {kind}, exit status {worker.process.exitcode}\n{stack}"
            self._note(name, number, Outcome(kind, _place_in(stack), text))
            if number + 1 < last:
                waiting.appendleft((name, number + 1, last))
            else:
                self._end(name)
        shutil.rmtree(self.root / f"worker-{worker.process.pid:07d}", ignore_errors=True)
        self.workers[place] = self._worker()

    def _stack(self, worker: Worker) -> str:
        """Where the worker is, or was when it died."""
        path = self.root / f"stack-{worker.process.pid:07d}"
        if worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGUSR1)
            time.sleep(0.3)
        return path.read_text(encoding="utf8")[:6000] if path.exists() else ""


def _place_in(stack: str) -> str:
    """The first line of the program's in a stack."""
    lines = [line.strip() for line in stack.splitlines() if line.strip().startswith("File")]
    return next(
        (line for line in lines if "site-packages" not in line and "/lib/python" not in line),
        lines[0] if lines else "nowhere",
    )


def _processor_time(pid: int) -> float:
    """Seconds that a process has computed; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
