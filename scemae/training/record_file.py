"""A file of equally large records, each with its digest, that many runs read and fill.

    KIND-0123456789abcdef/
        facts.json   all that the records depend on; the folder's name holds its hash, so that
                     other facts never meet these records
        records      record r at byte r * size; its last 16 bytes are the XXH3-128 of the others
        lock         held by the run that fills it

A record counts if its digest matches. So the order of writes does not matter: a record that was
never written, half written by a process that was killed, or damaged since, is found when the file
is opened, and computed again.
"""

import errno
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import xxhash
from torch import distributed

from scemae.distributed.process_group import Place, agree, barrier
from scemae.errors import ConfigError, FileError
from scemae.files import disk
from scemae.process.progress import progress_bar

DIGEST = 16  # bytes
RETRY_SECONDS = 1.0  # between two tries for a lock that another run holds


@dataclass
class Missing:
    """What is to be computed; the same on every rank."""

    chunks: list[np.ndarray]  # of rows, those with a record that is absent or damaged
    absent: int  # records that were never written
    damaged: int  # records whose digest does not match


class RecordFile:
    """One such file; all ranks of a run, and any number of runs, read it and fill it."""

    def __init__(
        self, parent: Path, kind: str, facts: dict, fields: list[tuple], rows: int
    ) -> None:
        """fields: (name, dtype, shape) of a record, as numpy takes them. Touches no file."""
        self.folder = parent / f"{kind}-{disk.json_digest(facts)[:16]}"
        self.facts, self.rows = facts, rows
        self.type = np.dtype([*fields, ("digest", "<u8", DIGEST // 8)], align=True)
        self.path = self.folder / "records"

    @contextmanager
    def locked(self, place: Place, note: Callable[[], None]) -> Iterator[None]:
        """Make the folder, and keep other runs from filling it while the block runs.

        Leaving the block waits for all ranks. All ranks call it. Raises ConfigError where the
        folder cannot be written.
        """
        lock, problem = None, None
        if place.is_first:
            try:
                lock = self._make()
            except FileError as error:
                problem = str(error)
            except OSError as error:
                problem = (
                    f"{self.folder}: cannot be written ({error.strerror}); set store.dir to a "
                    "folder that can be"
                )
        if problem := agree(problem):
            raise ConfigError(problem)
        try:
            waits = False
            while agree(lock is not None and not _take(lock)):
                if place.is_first and not waits:
                    print(
                        f"{self.folder}: another run fills it; waiting", file=sys.stderr, flush=True
                    )
                waits = True
                note()
                time.sleep(RETRY_SECONDS)
            yield
            barrier()
        finally:
            if lock is not None:
                lock.close()

    def _make(self) -> IO:
        """Make the folder and its files where they are absent; returns the open lock."""
        disk.make_folders(self.folder, self.folder.parent)
        if not (self.folder / "facts.json").exists():
            disk.write_json(self.folder / "facts.json", self.facts)
        with os.fdopen(disk.open_to_append(self.path), "ab") as file:
            size = self.rows * self.type.itemsize
            if os.fstat(file.fileno()).st_size < size:  # sparse; another run may need more rows
                file.truncate(size)
        return os.fdopen(disk.open_to_append(self.folder / "lock"), "ab")

    def missing(
        self, rows: np.ndarray, size: int, place: Place, note: Callable[[], None]
    ) -> Missing:
        """Which chunks of `size` of some rows (ascending) have records that are absent or damaged.

        All ranks call it; each checks its share.
        """
        chunks = np.split(rows, range(size, len(rows), size))
        incomplete, absent, damaged = [], 0, 0
        numbers = range(place.rank, len(chunks) if len(rows) else 0, place.world_size)
        for number in progress_bar(
            numbers, show=place.is_first, desc="checking tokens", unit="chunk", delay=2, leave=False
        ):
            note()
            counts = self._count_bad(chunks[number])
            absent, damaged = absent + counts[0], damaged + counts[1]
            if any(counts):
                incomplete.append(number)
        shares: list = [None] * place.world_size
        distributed.all_gather_object(shares, (incomplete, absent, damaged))
        numbers_each, absent_each, damaged_each = zip(*shares, strict=True)
        to_compute = [chunks[number] for number in sorted(chain(*numbers_each))]
        return Missing(to_compute, sum(absent_each), sum(damaged_each))

    def _count_bad(self, rows: np.ndarray) -> tuple[int, int]:
        """How many of these records are absent, and how many damaged."""
        found = self.read(rows)
        is_there = found["digest"].any(axis=1)
        is_whole = is_there & (found["digest"] == _digests(found)).all(axis=1)
        return int((~is_there).sum()), int((is_there & ~is_whole).sum())

    def check_room(self, count: int) -> None:
        """Raise ConfigError, on every rank, where the disk has no room for `count` more records."""
        needed, free = count * self.type.itemsize, agree(shutil.disk_usage(self.folder).free)
        if needed > free:
            raise ConfigError(
                f"{self.folder}: {count:,} records need {needed / 1e9:.2f} GB, found "
                f"{free / 1e9:.2f} GB free; set store.dir to a larger disk, or give fewer views"
            )

    def write(self, rows: np.ndarray, fields: dict[str, np.ndarray]) -> None:
        """Write some records (ascending rows), each field (rows, *shape).

        Raises ConfigError where the disk is full.
        """
        records = np.zeros(len(rows), self.type)
        for name, values in fields.items():
            records[name] = values
        records["digest"] = _digests(records)
        # Not through a memory map: on a full disk that is a bus error, and of two nodes that write
        # to the same page one would overwrite the other's records.
        try:
            with disk.open_to_change(self.path) as file:
                for first, part in self._stretches(rows, records):
                    file.seek(first)
                    file.write(part.data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ConfigError(
                f"{self.path}: {error.strerror}; set store.dir to a larger disk, or give fewer "
                "views"
            ) from error

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Some records (ascending rows), whole or not, as a structured array.

        Not through a memory map, where a disk that cannot be read is a bus error.
        """
        records = np.empty(len(rows), self.type)
        with disk.open_regular(self.path) as file:
            for first, part in self._stretches(rows, records):
                file.seek(first)
                file.readinto(part.data)
        return records

    def _stretches(self, rows: np.ndarray, records: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each stretch of consecutive records: its offset in the file, and its bytes."""
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            if len(part):
                yield (
                    int(rows[part[0]]) * self.type.itemsize,
                    records[part[0] : part[-1] + 1].view(np.uint8),
                )

    def map(self) -> np.ndarray:
        """All records (rows,) as a structured array mapped onto the file.

        Call it once other nodes have written: on some file systems their writes are visible only to
        a process that opens the file afterwards.
        """
        with disk.open_regular(self.path) as file:
            return np.asarray(np.memmap(file, self.type, "c", shape=(self.rows,)))


def _digests(records: np.ndarray) -> np.ndarray:
    """The digests of some records, (b, 2) uint64."""
    body = records.view(np.uint8).reshape(len(records), -1)[:, :-DIGEST]
    return np.array([np.frombuffer(xxhash.xxh3_128_digest(record), "<u8") for record in body])


def _take(lock: IO) -> bool:
    """Try to take the lock; True where this process has it now.

    Also where the file system has no locks: two runs would write the same bytes.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True
