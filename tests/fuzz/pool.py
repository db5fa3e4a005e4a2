"""Worker processes that try inputs, and the parent that gives them work, stops those that hang and counts what happened."""

import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path

import torch

from tests.fuzz.guard import ACCEPTED, BAD, DEATH, HANG, REFUSED, Guard, Outcome
from tests.fuzz.target import Target

FORK = multiprocessing.get_context("fork")  # of this process, which has imported all that inputs need
BATCH = 100  # inputs that a worker gets at once
PATIENCE, WALL = 10.0, 60.0  # seconds of one input: of its processor's time, and of the clock (the machine may be busy)
SWELLING, SWOLLEN = 700 * 2**20, 3  # bytes a worker may gain over all its inputs before another takes its place; its status then


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


class Place:
    """Where one worker tries the inputs of one target: in/, the document; out/; canary/; here/, the current folder."""

    def __init__(self, folder: Path, target: Target, seeds: Path) -> None:
        self.folder, self.target, self.seed = folder, target, _seed(seeds, target)
        self.originals = {name: (self.seed / name).read_bytes() for name in {*target.files, target.mended} if name}
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("canary", "here", "tmp"):
            (folder / name).mkdir(parents=True)
        (folder / "canary" / "kept").write_bytes(b"kept")
        shutil.copytree(self.seed, folder / "in")
        os.chdir(folder / "here")
        os.environ["TMPDIR"] = str(folder / "tmp")

    def put(self, name: str, content: bytes) -> None:
        """Change one file, and mend what must agree with it."""
        (self.folder / "in" / name).write_bytes(content)
        if self.target.mend:
            self.target.mend(self.folder / "in")

    def restore(self, name: str, *, whole: bool) -> None:
        """As it was."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        if whole:
            shutil.rmtree(self.folder / "in")
            shutil.copytree(self.seed, self.folder / "in")
        for changed in filter(None, (name, self.target.mended)):
            (self.folder / "in" / changed).write_bytes(self.originals[changed])


def _seed(seeds: Path, target: Target) -> Path:
    """The valid document, made once for all workers."""
    folder = seeds / target.name
    if not folder.exists():
        aside = seeds / f"{target.name}.{os.getpid()}"
        aside.mkdir(parents=True)
        target.make(aside)
        try:
            aside.rename(folder)
        except OSError:  # another worker was first
            shutil.rmtree(aside)
    return folder


def try_one(place: Place, guard: Guard, seed: int, number: int) -> Outcome:
    """Try input `number`."""
    target = place.target
    name, content = target.change(seed, number, place.originals)
    try:
        place.put(name, content)
        outcome = guard.run(lambda: target.enter[number % len(target.enter)](place.folder / "in"))
    finally:
        place.restore(name, whole=guard.wrote)
    return outcome


def work(pipe: connection.Connection, shown, root: Path, targets: Mapping[str, Target], seed: int) -> None:
    """A worker: takes (target, first, last, until) from `pipe`, sends findings and, at the end of each, ("done", seconds)."""
    torch.set_num_threads(1)  # a fork has none of its parent's threads, and would wait for them
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    folder, stack = root / f"worker-{os.getpid():07d}", open(root / f"stack-{os.getpid():07d}", "w", encoding="utf8")
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGUSR1, stack)
    guard, place, begun = Guard(folder), None, _resident()
    while job := pipe.recv():
        name, first, last, until = job
        if place is None or place.target.name != name:
            place = Place(folder, targets[name], root / "seeds")
        started = time.monotonic()
        shown[2], shown[3] = 0, 0
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


class Worker:
    """A worker as the parent sees it."""

    def __init__(self, root: Path, targets: Mapping[str, Target], seed: int) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.shown = FORK.RawArray("d", 5)  # the input it is at, since when (0: none), accepted, refused, its processor's time before
        self.process = FORK.Process(target=work, args=(theirs, self.shown, root, targets, seed))
        self.process.start()
        theirs.close()
        self.job: tuple[str, int, int] | None = None

    def give(self, job: tuple[str, int, int] | None, until: float = 0.0) -> None:
        """Give it inputs to try until a time; None: it may go."""
        self.job = job
        try:
            self.pipe.send(job and (*job, until))
        except OSError:  # it has ended meanwhile, which `ended` will show
            pass

    @property
    def is_stuck(self) -> bool:
        """True where its input takes too long."""
        if self.job is None or not self.shown[1]:
            return False
        waited = time.monotonic() - self.shown[1]
        return waited > WALL or waited > PATIENCE and _processor_time(self.process.pid) - self.shown[4] > PATIENCE


class Pool:
    """The parent: `run` gives out the jobs; then `tallies` and `findings` say what happened."""

    def __init__(self, root: Path, targets: Mapping[str, Target], seed: int, workers: int) -> None:
        self.root, self.targets, self.seed = root, targets, seed
        self.tallies = {name: Tally() for name in targets}
        self.findings: dict[tuple, Finding] = {}
        self.workers = [self._worker() for _ in range(workers)]

    def run(self, jobs: Iterable[tuple[str, int, int]], until: float) -> None:
        """Try all the inputs of `jobs`, or those that fit before the time `until` (time.monotonic)."""
        waiting = deque(jobs)
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

    def _worker(self) -> Worker:
        return Worker(self.root, self.targets, self.seed)

    def _hear(self, worker: Worker) -> None:
        try:
            while worker.pipe.poll():
                number, what = worker.pipe.recv()
                if number == "done":
                    self._count(worker)
                    self.tallies[worker.job[0]].seconds += what
                    worker.job = None
                else:
                    self._note(worker.job[0], number, what)
        except (EOFError, OSError):
            return

    def _count(self, worker: Worker) -> None:
        counts = self.tallies[worker.job[0]].counts
        counts[ACCEPTED] += int(worker.shown[2])
        counts[REFUSED] += int(worker.shown[3])

    def _note(self, target: str, number: int, outcome: Outcome) -> None:
        self.tallies[target].counts[outcome.kind] += 1
        known = self.findings.setdefault((target, outcome.kind, outcome.signature), Finding(target, outcome.kind, outcome.signature, number,
                                                                                            outcome.text, 0))
        known.times += 1

    def _replace(self, place: int, waiting: deque) -> None:
        """Another worker for one that hangs or has ended; its input is counted, the rest of its job is tried later."""
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
            self._count(worker)
            self._note(name, number, Outcome(kind, _place_in(stack), f"input {number}: {kind}, exit status {worker.process.exitcode}\n{stack}"))
            if number + 1 < last:
                waiting.appendleft((name, number + 1, last))
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
    return next((line for line in lines if "site-packages" not in line and "/lib/python" not in line), lines[0] if lines else "nowhere")


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


def show(target: Target, root: Path, seed: int, number: int) -> None:
    """Try one input in this process and print how it ended, with its traceback."""
    place = Place(root / "one", target, root / "seeds")
    name, content = target.change(seed, number, place.originals)
    sys.stdout.write(f"{name}, {len(content):,} bytes: {content[:3000]!r}\n")
    place.put(name, content)
    try:
        target.enter[number % len(target.enter)](place.folder / "in")
        sys.stdout.write("accepted\n")
    except BaseException:
        traceback.print_exc()
