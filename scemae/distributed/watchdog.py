"""A watchdog for each rank: where a step does not end in time, it finds the rank that stopped,
writes where that was, and ends the process.

Every rank notes what it is about to do. A rank that hangs makes the others wait in a collective, so
all watchdogs run out of time together. Each leaves its rank's last note in the generation's folder.
The rank whose note is of the earliest step and phase has stopped, or the one that left no note. The
exit status is 75, so the job script starts the job again.

Compilation by torch.compile may take minutes and is not a hang, neither of the rank that compiles
nor of those that wait for it. A rank that compiles keeps a file compiling-NNNN in that folder.

Of a thousand ranks, each opens the folder once in CHECK_SECONDS, and lists its names only after one
was added. A hang is judged by the first READERS ranks, if all have left their notes.
"""

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scemae.distributed.process_group import Place
from scemae.errors import DataError, FileError, LaunchError, LostRankError
from scemae.files import disk, documents
from scemae.files.documents import Count
from scemae.files.folder_names import FolderNames
from scemae.process.streams import log_file

CHECK_SECONDS = 8.0  # between two checks of the other ranks' files
COMPILING_SECONDS = 60.0  # the process of an older compiling-NNNN has died
READERS = 4  # ranks that read every rank's note: with all of them it would be their square
PHASES = ("start", "data", "forward", "heartbeat", "save", "probe", "end")


@dataclass
class Note:
    """What a rank's watchdog writes before it ends its process."""

    rank: Count
    host: str
    step: Count
    phase: Literal["start", "data", "forward", "heartbeat", "save", "probe", "end"]


class Watchdog:
    """Ends this process if `note` is not called for `seconds`. Writes rank-NNNN.log to `folder`."""

    def __init__(self, folder: Path, rank: int, world_size: int, seconds: float) -> None:
        self.folder, self.rank, self.world_size, self.seconds = folder, rank, world_size, seconds
        self._log = log_file(folder / f"rank-{rank:04d}.log")
        self._last = (0, "start", time.monotonic())
        self._over = threading.Event()
        self._is_compiling = self._is_announced = False
        self._compiled_until = 0.0  # when this or another rank was last seen compiling
        self._compiling_file = folder / f"compiling-{rank:04d}"
        self._names = FolderNames(folder)
        self._stop_following: Callable[[], None] | None = None
        self.log(f"process {os.getpid()} on {socket.gethostname()}, rank {rank} of {world_size}")
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def note(self, step: int, phase: str) -> None:
        """Record what this rank is about to do: one of PHASES. Costs one read of the clock."""
        self._last = (step, phase, time.monotonic())

    def log(self, text: str) -> None:
        """Write a line to this rank's log."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        if self._stop_following is not None:
            self._stop_following()

    def follow_compilation(self) -> None:
        """Do not count the time of any later compilation by torch.compile as a hang."""
        # inside the function: the import takes seconds, and few runs compile
        from torch._dynamo.callback import callback_handler

        def begin(*_: object) -> None:
            self._is_compiling = True

        def end(*_: object) -> None:
            self._is_compiling, self._compiled_until = False, time.monotonic()

        def stop() -> None:
            callback_handler.remove_start_callback(begin)
            callback_handler.remove_end_callback(end)
            self._stop_following = None

        callback_handler.register_start_callback(begin)
        callback_handler.register_end_callback(end)
        self._stop_following = stop

    def _watch(self) -> None:
        checked = time.monotonic()
        while not self._over.wait(min(self.seconds / 10, 1.0)):
            if self._is_compiling:
                self._compiled_until = time.monotonic()
            if self._is_compiling != self._is_announced:
                self._announce_compilation()
            step, phase, since = self._last
            if time.monotonic() - max(since, self._compiled_until) > self.seconds:
                if self._another_compiles():
                    self._compiled_until = time.monotonic()
                    continue
                self._end_process(step, phase)
            if time.monotonic() - checked > CHECK_SECONDS:
                checked = time.monotonic()
                self._end_after_failure()
                if self._is_compiling:
                    self._announce_compilation()

    def _end_process(self, step: int, phase: str) -> None:
        """Report the hang and end without clean-up, which would wait for a collective for ever."""
        # The report hangs too where the folder's file system does.
        threading.Timer(30.0, os._exit, (LostRankError.exit_status,)).start()
        try:
            self._report_hang(step, phase)
        finally:
            os._exit(LostRankError.exit_status)

    def _end_after_failure(self) -> None:
        """End this process where another rank has failed and ended more than CHECK_SECONDS ago.

        This rank would wait for it for ever, since NCCL does not notice.
        """
        try:
            reasons = []
            for name in self._names.read():
                path = self.folder / name
                if not path.match("failed-*.txt"):
                    continue
                if time.time() - path.stat().st_mtime > CHECK_SECONDS:
                    reasons.append(f"{path.stem}: {path.read_text(encoding='utf8')}")
        except OSError:  # a shared folder that is not reachable now: the next check reads it again
            return
        if reasons and not self._over.is_set():
            self.log("; ".join(reasons))
            os._exit(LaunchError.exit_status)

    def _announce_compilation(self) -> None:
        """Renew the time of compiling-NNNN while this rank compiles, and remove it afterwards."""
        is_compiling = self._is_compiling
        try:
            if is_compiling:
                disk.touch(self._compiling_file)
            else:
                self._compiling_file.unlink(missing_ok=True)
            self._is_announced = is_compiling
        except OSError:  # as above
            pass

    def _another_compiles(self) -> bool:
        try:
            ages = [time.time() - path.stat().st_mtime for path in self.folder.glob("compiling-*")]
        except OSError:
            return False
        return bool(ages) and min(ages) < COMPILING_SECONDS

    def _report_hang(self, step: int, phase: str) -> None:
        self.log(f"no progress for {self.seconds:.0f} s at step {step}, {phase}; all threads:")
        faulthandler.dump_traceback(self._log, all_threads=True)
        note = {"rank": self.rank, "host": socket.gethostname(), "step": step, "phase": phase}
        try:
            disk.write_json(self.folder / _note_name(self.rank), note)
        except (OSError, FileError) as error:
            self.log(f"{error}; this rank leaves no note for the others")
        # The other watchdogs check the time once a second: wait for their notes.
        time.sleep(min(self.seconds / 4, 5.0) + 1.2)
        text = find_stopped_rank(self.folder, self.world_size, self.seconds, self.rank)
        self.log(text)
        print(f"scemae: rank {self.rank}: {text}", file=sys.stderr, flush=True)


@contextmanager
def watch(folder: Path, place: Place, seconds: float) -> Iterator[Watchdog]:
    """A watchdog for this rank while the block runs. Its log ends with what ended the block."""
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


def find_stopped_rank(folder: Path, world_size: int, seconds: float, reader: int = 0) -> str:
    """A sentence on the rank that the others wait for, from the notes that the watchdogs left.

    reader: the rank that asks.
    """
    left = {path.name for path in folder.glob("hang-*.json")}
    silent = [rank for rank in range(world_size) if _note_name(rank) not in left]
    notes: dict[int, Note] = {}
    if not silent and reader < READERS:
        notes = _notes(folder, world_size)
        silent = [rank for rank in range(world_size) if rank not in notes]
    if silent:
        return (
            f"no progress for {seconds:.0f} s, and rank {', '.join(map(str, silent))} left no "
            f"note: it died or is cut off; its log, if any, is in {folder}; the job ends and "
            "resumes from its last checkpoint"
        )
    if not notes:
        return (
            f"no progress for {seconds:.0f} s; every rank left a note, and rank-0000.log in "
            f"{folder} names the rank that the others wait for; the job ends and resumes from its "
            "last checkpoint"
        )
    last = min(notes.values(), key=lambda note: (note.step, PHASES.index(note.phase)))
    return (
        f"no progress for {seconds:.0f} s: rank {last.rank} on {last.host} got no further than "
        f"step {last.step}, {last.phase}, the others wait for it; stack dumps are in {folder}; "
        "the job ends and resumes from its last checkpoint"
    )


def _note_name(rank: int) -> str:
    return f"hang-{rank:04d}.json"


def _notes(folder: Path, world_size: int) -> dict[int, Note]:
    """The notes of all ranks, by rank, without those that cannot be read."""
    found = {}
    for rank in range(world_size):
        try:
            found[rank] = documents.read_json(folder / _note_name(rank), Note)
        except (OSError, DataError):  # half written, or not one of ours
            continue
    return found
