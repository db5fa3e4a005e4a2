"""A watchdog per rank: where a step does not end in time, it says which rank stopped and where, and ends the process.

Every rank notes what it is about to do. A rank that hangs makes the others wait in a collective, so all watchdogs bark
at about the same time; each leaves its last note in the generation's folder, and the one that got least far, or left no
note at all, is the one to blame. Exit status 75: the job script starts the job again.

Compilation by torch.compile may take minutes and is no hang: neither of the rank that compiles, which leaves a file
compiling-NNNN in that folder meanwhile, nor of those that wait for it.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scemae.distributed.process_group import Place
from scemae.errors import DataError, FileError, LaunchError, LostRankError
from scemae.files import disk, documents
from scemae.files.documents import Count
from scemae.process.streams import log_file

LOOK_SECONDS = 8.0
COMPILING_SECONDS = 60.0  # a compiling-NNNN older than this is of a process that is gone
PHASES = ("start", "data", "forward", "heartbeat", "save", "probe", "end")


@dataclass
class Note:
    """What a rank's watchdog leaves when it ends its process."""

    rank: Count
    host: str
    step: Count
    phase: Literal["start", "data", "forward", "heartbeat", "save", "probe", "end"]


class Watchdog:
    """Ends this process when `note` has not been called for `seconds`. Writes rank-NNNN.log in `folder`."""

    def __init__(self, folder: Path, rank: int, world_size: int, seconds: float) -> None:
        self.folder, self.rank, self.world_size, self.seconds = folder, rank, world_size, seconds
        self._log = log_file(folder / f"rank-{rank:04d}.log")
        self._last = (0, "start", time.monotonic())
        self._over = threading.Event()
        self._is_compiling, self._has_told, self._excused = False, False, 0.0
        self._compiling_file, self._forget_compilation = (
            folder / f"compiling-{rank:04d}",
            lambda: None,
        )
        self.log(f"process {os.getpid()} on {socket.gethostname()}, rank {rank} of {world_size}")
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def note(self, step: int, phase: str) -> None:
        """Say what this rank is about to do: one of PHASES. Cheap: no system call but the clock."""
        self._last = (step, phase, time.monotonic())

    def log(self, text: str) -> None:
        """A line in this rank's log."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._forget_compilation()

    def follow_compilation(self) -> None:
        """From now on, hear of every compilation by torch.compile: that of the first step, and any later one."""
        from torch._dynamo.callback import (
            callback_handler,  # takes seconds to import, and few runs need it
        )

        def begin(*_: object) -> None:
            self._is_compiling = True

        def end(*_: object) -> None:
            self._is_compiling, self._excused = False, time.monotonic()

        def forget() -> None:
            callback_handler.remove_start_callback(begin)
            callback_handler.remove_end_callback(end)
            self._forget_compilation = lambda: None

        callback_handler.register_start_callback(begin)
        callback_handler.register_end_callback(end)
        self._forget_compilation = forget

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(min(self.seconds / 10, 1.0)):
            step, phase, since = self._last
            if self._is_compiling:
                self._excused = time.monotonic()
            if self._is_compiling != self._has_told:
                self._tell_of_compilation()
            if time.monotonic() - max(since, self._excused) > self.seconds:
                if self._another_compiles():
                    self._excused = time.monotonic()
                    continue
                threading.Timer(
                    30.0, os._exit, (LostRankError.exit_status,)
                ).start()  # should the folder hang too
                try:
                    self._bark(step, phase)
                finally:
                    os._exit(
                        LostRankError.exit_status
                    )  # no clean-up: a collective would wait for ever
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                self._follow_a_failure()
                self._tell_of_compilation()

    def _follow_a_failure(self) -> None:
        """End where another rank failed for good a while ago and this one still waits for it (NCCL does not notice)."""
        try:
            old = [
                path
                for path in self.folder.glob("failed-*.txt")
                if time.time() - path.stat().st_mtime > LOOK_SECONDS
            ]
            words = [f"{path.stem}: {path.read_text(encoding='utf8')}" for path in old]
        except (
            OSError
        ):  # a shared folder that is away for a moment: look again later, and go on watching
            return
        if words and not self._over.is_set():
            self.log("; ".join(words))
            os._exit(LaunchError.exit_status)

    def _tell_of_compilation(self) -> None:
        """Keep compiling-NNNN young while this rank compiles, and remove it afterwards."""
        self._has_told = self._is_compiling
        try:
            if self._is_compiling:
                disk.touch(self._compiling_file)
            else:
                self._compiling_file.unlink(missing_ok=True)
        except OSError:  # as above
            pass

    def _another_compiles(self) -> bool:
        try:
            ages = [time.time() - path.stat().st_mtime for path in self.folder.glob("compiling-*")]
        except OSError:
            return False
        return bool(ages) and min(ages) < COMPILING_SECONDS

    def _bark(self, step: int, phase: str) -> None:
        self.log(
            f"no progress for {self.seconds:.0f} s at step {step}, {phase}; where every thread stands:"
        )
        faulthandler.dump_traceback(self._log, all_threads=True)
        note = {"rank": self.rank, "host": socket.gethostname(), "step": step, "phase": phase}
        try:
            disk.write_json(self.folder / f"hang-{self.rank:04d}.json", note)
        except (OSError, FileError) as error:
            self.log(f"{error}; this rank leaves no note for the others")
        time.sleep(min(self.seconds / 4, 5.0) + 1.2)  # the others' watchdogs look once a second
        text = blame(self.folder, self.world_size, self.seconds)
        self.log(text)
        print(f"scemae: rank {self.rank}: {text}", file=sys.stderr, flush=True)


@contextmanager
def watch(folder: Path, place: Place, seconds: float) -> Iterator[Watchdog]:
    """A watchdog for this rank while the block runs; what ends the block is its last line."""
    dog = Watchdog(folder, place.rank, place.world_size, seconds)
    try:
        yield dog
    except BaseException as error:
        dog.log(f"{type(error).__name__}: {error}")
        raise
    else:
        dog.log("ended")
    finally:
        dog.close()


def blame(folder: Path, world_size: int, seconds: float) -> str:
    """Which rank holds the others up, from the notes that the watchdogs left."""
    notes = {}
    for path in folder.glob("hang-*.json"):
        try:
            note = documents.read_json(path, Note)
        except (OSError, DataError):  # half written, or of somebody else
            continue
        notes[note.rank] = note
    silent = [rank for rank in range(world_size) if rank not in notes]
    if silent:
        return (
            f"no progress for {seconds:.0f} s, and of rank {', '.join(map(str, silent))} there is no sign: it died or "
            f"is cut off; its last words, if any, are in {folder}; the job ends and goes on from its last checkpoint"
        )
    last = min(notes.values(), key=lambda note: (note.step, PHASES.index(note.phase)))
    return (
        f"no progress for {seconds:.0f} s: rank {last.rank} on {last.host} got no further than step "
        f"{last.step}, {last.phase}, the others wait for it; stack dumps are in {folder}; the job ends and goes "
        "on from its last checkpoint"
    )
