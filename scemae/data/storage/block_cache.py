"""A folder of blocks that is never larger than its limit; the processes of a node share it.

A block is downloaded once, under the lock of its own file, into a file that has its full size from
the start; it gets its name when it is whole. So the sizes in the folder, partial files included,
are what is used, whoever was killed when. To make room, blocks are removed that are needed last:
the order of samples says when (`Order.next_windows`). They are emptied first, so that they take no
room although processes still have them open; a block that is too short is one that is not there.
"""

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from scemae.errors import ConfigError, ShardError
from scemae.files import disk

PART, BLOCKS_OF = ".part", "-blocks-of-"  # of a block that is not whole; in the name of the folder
TURN = 0.01  # seconds between two looks at a lock
# Of the blocks with these names, when each is needed next: a larger number is later.
NextUse = Callable[[list[str]], list[int]]


class BlockCache:
    """Blocks in `folder`, of at most `limit` bytes together."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._open: dict[str, BinaryIO] = {}  # one that is dropped closes after the last read of it
        self._opening = threading.Lock()

    def read(self, name: str, size: int, at: int) -> bytes:
        """`size` bytes of a block, from its byte `at` on; fewer where it is not there."""
        try:
            file = self._open.get(name) or self._opened(name)
        except FileNotFoundError:
            return b""
        data = os.pread(file.fileno(), size, at)
        if len(data) < size:
            with self._opening:
                self._open.pop(name, None)
        return data

    def _opened(self, name: str) -> BinaryIO:
        """Open a block, and keep it open."""
        with self._opening:
            if name in self._open:  # another thread was first
                return self._open[name]
            file = self._open[name] = open(self.path(name), "rb", buffering=0)
            if len(self._open) > disk.MOST_OPEN:
                del self._open[next(iter(self._open))]
            return file

    def path(self, name: str) -> Path:
        """Where a block is, or would be."""
        return self.folder / name

    def room(self) -> int:
        """Bytes of the disk that the cache could take, with those that it has or will remove."""
        used = _taken(self.folder) + sum(_taken(other) for other in self._others())
        return shutil.disk_usage(self.folder).free + used

    def made(self, name: str) -> int:
        """When a block was made, in nanoseconds; 0 where it is not there."""
        try:
            return self.path(name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def ensure(
        self,
        name: str,
        size: int,
        download: Callable[[BinaryIO], None],
        next_use: NextUse,
        *,
        only_before: int,
        waiting: Callable[[], None] = lambda: None,
    ) -> bool:
        """Download a block of `size` bytes unless it is there.

        Removes only blocks whose next use is later than `only_before`; False where that makes no
        room. Processes that ask for the same block wait for one download; `waiting` is called again
        and again meanwhile.
        """
        while not self._has(name, size):
            part = self.folder / (name + PART)
            with _turn(part, waiting) as descriptor:
                if not _is_still(part, descriptor):
                    continue  # another process renamed or removed it while this one waited
                if self._has(name, size):  # it was made after the other was renamed
                    disk.remove(part)
                    return True
                if not self._reserve(part, descriptor, size, next_use, only_before):
                    disk.remove(part)
                    return False
                try:
                    with os.fdopen(os.dup(descriptor), "r+b") as file:
                        download(file)
                        file.flush()
                        os.fsync(file.fileno())  # else a power cut could leave zeros under its name
                except BaseException:
                    disk.remove(part)
                    raise
                with self._locked():  # who adds up the sizes must not miss it between two names
                    disk.rename(part, self.path(name))
        return True

    def _has(self, name: str, size: int) -> bool:
        try:
            return self.path(name).stat().st_size == size
        except FileNotFoundError:
            return False

    def _locked(self) -> AbstractContextManager[int]:
        return disk.locked(self.folder / ".lock")

    def claim(self, owner: str) -> BinaryIO:
        """Take the cache for the processes of `owner`, until the file is closed.

        Raises ConfigError where a process of another owner is at work here: each would remove what
        the other needs.
        """
        path = self.folder / ".owner"
        with self._locked():
            disk.touch(path)
            file = disk.open_to_change(path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                file.write(owner.encode())
                file.flush()
            except BlockingIOError as error:
                if (found := file.read(4096).decode("utf8", "replace")) != owner:
                    file.close()
                    raise ConfigError(
                        f"{self.folder}: found the run {found} at work in this cache; give another "
                        "data.cache_dir, or wait for its end"
                    ) from error
            fcntl.flock(file, fcntl.LOCK_SH)
        self._clear_others()
        return file

    def _clear_others(self) -> None:
        """Empty the caches of `_others`: with them the disk would hold more than the limit."""
        for folder in self._others():
            for name in os.listdir(folder):
                if not name.startswith("."):
                    disk.empty(folder / name)
                    disk.remove(folder / name)

    def _others(self) -> Iterator[Path]:
        """Cache folders of the same URL that no run uses, locked one after the other.

        Each set of samples has its own: one that has grown is another set.
        """
        for owner in self.folder.parent.glob(f"*{BLOCKS_OF}*/.owner"):
            if owner.parent != self.folder:
                try:
                    with disk.locked(owner, wait=False), disk.locked(owner.parent / ".lock"):
                        yield owner.parent
                except (BlockingIOError, FileNotFoundError):
                    pass  # in use, or just removed

    def _reserve(
        self, part: Path, descriptor: int, size: int, next_use: NextUse, only_before: int
    ) -> bool:
        """Make room for `size` bytes and take it."""
        with self._locked():
            used, blocks = 0, {}
            for entry in os.scandir(self.folder):
                if entry.name.startswith(".") or entry.name == part.name:
                    continue
                try:
                    bytes_there = entry.stat().st_size
                except FileNotFoundError:
                    continue
                if entry.name.endswith(PART):
                    if _remove_abandoned(Path(entry.path)):
                        continue
                else:
                    blocks[entry.name] = bytes_there
                used += bytes_there
            names = [*blocks]
            uses = next_use(names) if used + size > self.limit else []
            for use, name in sorted(zip(uses, names), reverse=True):
                if used + size <= self.limit or use <= only_before:
                    break
                disk.empty(self.path(name))
                disk.remove(self.path(name))
                used -= blocks[name]
            if used + size > self.limit:
                return False
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                raise ShardError(
                    f"{self.folder}: found no room for {size:,} bytes ({error.strerror}), although "
                    f"data.cache_gb allows {self.limit / 1e9:g} GB; make room, or lower it"
                ) from error
            return True


def _taken(folder: Path) -> int:
    """Bytes of the disk that the files in a folder take."""
    total = 0
    for entry in os.scandir(folder):
        try:
            total += entry.stat().st_blocks * 512
        except FileNotFoundError:  # another rank made room
            pass
    return total


@contextmanager
def _turn(part: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold the lock of a partial file.

    While another thread or process holds it, that one is downloading: `waiting` is called then.
    """
    with ExitStack() as stack:
        while True:
            try:
                descriptor = stack.enter_context(disk.locked(part, wait=False))
                break
            except BlockingIOError:
                waiting()
                time.sleep(TURN)
        yield descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return found.st_ino == os.fstat(descriptor).st_ino


def _remove_abandoned(part: Path) -> bool:
    """Remove a partial file whose process was killed."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return not part.exists()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        disk.remove(part)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
