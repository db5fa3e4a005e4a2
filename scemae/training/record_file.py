"""A file of records of one size, each with its digest: what is computed once and kept, whatever happens meanwhile.

    KIND-0123456789abcdef/
        facts.json   in clear, all that the records depend on; its hash is in the folder's name, so none is ever stale
        records      record r at byte r * size; its last 16 bytes are the XXH3-128 of the others
        lock         held by the run that fills it

A record counts where its digest holds. So nothing needs an order of writes: one that was never written, half written by
a process that was killed, or damaged since, is found when the file is opened, and made again.
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
LOOK_SECONDS = 1.0  # between two tries for a lock that another run holds


@dataclass
class Lacking:
    """Chunks of rows to be made, the same on every rank; of these rows so many are not there, so many damaged."""

    chunks: list[np.ndarray]
    absent: int
    damaged: int


class Records:
    """One such file; all ranks of a run, and any number of runs, read it and fill it."""

    def __init__(
        self, parent: Path, kind: str, facts: dict, fields: list[tuple], rows: int
    ) -> None:
        """fields: (name, dtype, shape) of a record, as numpy takes them. Nothing is touched yet."""
        self.folder, self.facts, self.rows = (
            parent / f"{kind}-{disk.json_digest(facts)[:16]}",
            facts,
            rows,
        )
        self.type = np.dtype([*fields, ("digest", "<u8", DIGEST // 8)], align=True)
        self.path = self.folder / "records"

    @contextmanager
    def held(self, place: Place, note: Callable[[], None]) -> Iterator[None]:
        """Make the folder where there is none, and keep other runs from filling it while the block runs; all ranks have
        filled it when the block is left. All ranks call it. Raises ConfigError where it cannot be written."""
        lock, problem = None, None
        if place.is_first:
            try:
                lock = self._make()
            except FileError as error:
                problem = str(error)
            except OSError as error:
                problem = f"{self.folder}: cannot be written ({error.strerror}); set store.dir to a folder that can be"
        if problem := agree(problem):
            raise ConfigError(problem)
        try:
            waits = False
            while agree(lock is not None and not _locked(lock)):
                if place.is_first and not waits:
                    print(
                        f"{self.folder}: another run fills it; waiting", file=sys.stderr, flush=True
                    )
                waits = True
                note()
                time.sleep(LOOK_SECONDS)
            yield
            barrier()
        finally:
            if lock is not None:
                lock.close()

    def _make(self) -> IO:
        disk.make_folders(self.folder, self.folder.parent)
        if not (self.folder / "facts.json").exists():
            disk.write_json(self.folder / "facts.json", self.facts)
        with os.fdopen(disk.open_to_append(self.path), "ab") as file:
            if (
                os.fstat(file.fileno()).st_size < self.rows * self.type.itemsize
            ):  # sparse; another run may want more rows
                file.truncate(self.rows * self.type.itemsize)
        return os.fdopen(disk.open_to_append(self.folder / "lock"), "ab")

    def lacking(
        self, rows: np.ndarray, size: int, place: Place, note: Callable[[], None]
    ) -> Lacking:
        """Which chunks of `size` of some rows (ascending) are not whole. All ranks call it, each looks at its share."""
        chunks = np.split(rows, range(size, len(rows), size))
        mine, absent, damaged = [], 0, 0
        numbers = range(place.rank, len(chunks) if len(rows) else 0, place.world_size)
        for number in progress_bar(
            numbers, show=place.is_first, desc="checking tokens", unit="chunk", delay=2, leave=False
        ):
            note()
            found = self.read(chunks[number])
            there = found["digest"].any(axis=1)
            whole = there & (found["digest"] == _digests(found)).all(axis=1)
            if not whole.all():
                mine.append(number)
            absent, damaged = absent + int((~there).sum()), damaged + int((there & ~whole).sum())
        told: list = [None] * place.world_size
        distributed.all_gather_object(told, (mine, absent, damaged))
        found, absent, damaged = zip(*told)
        return Lacking(
            [chunks[number] for number in sorted(chain(*found))], sum(absent), sum(damaged)
        )

    def check_room(self, count: int) -> None:
        """Raise ConfigError, on every rank, where the disk has no room for `count` records more."""
        needed, free = count * self.type.itemsize, agree(shutil.disk_usage(self.folder).free)
        if needed > free:
            raise ConfigError(
                f"{self.folder}: {count:,} records need {needed / 1e9:.2f} GB, found {free / 1e9:.2f} GB free; "
                "set store.dir to a larger disk, or give fewer views"
            )

    def write(self, rows: np.ndarray, fields: dict[str, np.ndarray]) -> None:
        """Write some rows (ascending), each field (rows, *shape). Raises ConfigError where the disk is full."""
        records = np.zeros(len(rows), self.type)
        for name, values in fields.items():
            records[name] = values
        records["digest"] = _digests(records)
        try:  # not through a map: a full disk would be a bus error, and nodes that share a page would undo each other
            with disk.open_to_change(self.path) as file:
                for first, part in self._stretches(rows, records):
                    file.seek(first)
                    file.write(part)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ConfigError(
                f"{self.path}: {error.strerror}; set store.dir to a larger disk, or give fewer views"
            ) from error

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Some records (ascending rows), whole or not, as a structured array; not through a map, where a disk that
        cannot be read is a bus error."""
        records = np.empty(len(rows), self.type)
        with disk.open_regular(self.path) as file:
            for first, part in self._stretches(rows, records):
                file.seek(first)
                file.readinto(part)
        return records

    def _stretches(self, rows: np.ndarray, records: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Where in the file the bytes of some records go, a stretch of neighbours at a time."""
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            if len(part):
                yield (
                    int(rows[part[0]]) * self.type.itemsize,
                    records[part[0] : part[-1] + 1].view(np.uint8),
                )

    def map(self) -> np.ndarray:
        """All records (rows,) as a structured array on the file, as it is now: on some file systems what other nodes
        write is only seen by who opens it afterwards."""
        with disk.open_regular(self.path) as file:
            return np.asarray(np.memmap(file, self.type, "c", shape=(self.rows,)))


def _digests(records: np.ndarray) -> np.ndarray:
    """What the digests of records should be, (b, 2) uint64."""
    body = records.view(np.uint8).reshape(len(records), -1)[:, :-DIGEST]
    return np.array([np.frombuffer(xxhash.xxh3_128_digest(record), "<u8") for record in body])


def _locked(lock: IO) -> bool:
    """True where the lock is ours now; also where the file system has none: two runs would write the same bytes."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True
